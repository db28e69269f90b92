"""Training for real: every rank runs its program on its own process, and says what it measured.

`train` is the target that launch.Pool and torchrun start on each rank. While it runs it emits
{"event": "notes"} (what the lanes noted) and, on rank 0, {"event": "progress"}; it returns the
rank's measurements. Nothing here predicts: report.py lays the two sides together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from parallel_core import values as v
from parallel_core.activations.offload import leaving
from parallel_core.cases import program_of
from parallel_core.comm import Comm
from parallel_core.kernel_choice import kernels_of
from parallel_core.kernels import TrainKernels
from parallel_core.lanes import Lanes
from parallel_core.plan import Plan
from parallel_core.program import Value
from parallel_core.rank import Backend, Rank, choose_backend
from parallel_core.recording import Stamp
from parallel_core.resident import activations, live_bytes, state_bytes, unaccounted
from parallel_core.saving import save_outputs
from parallel_core.truth_beside import Snapshots, collected, compared, snapshot
from parallel_core.witness import Witness

AFTERWARDS = ("measuring what is resident", "saving", "the comparison with one process")
"""What a rank does after its last step, named for the heartbeat."""


def train(
    rank: Rank,
    *,
    plan: Mapping[str, Any],
    steps: int,
    parity: bool = True,
    save: Mapping[str, str | None] | None = None,
    make: type[TrainKernels] | None = None,
) -> dict[str, Any]:
    """Train `steps` steps of `plan` as one rank of it; the rank's measurements, JSON-ready.

    `make` builds the kernels, by default those of the plan's axes; tests plant their faults there.
    """
    chosen = Plan.of(**plan)
    backend = choose_backend(rank.local_size)
    device = join(rank, chosen, backend)
    memory = live_bytes(device)
    comm = Comm(chosen.mesh, rank.rank, staged=backend.staged) if meets(chosen) else None
    kernels = (make or kernels_of(chosen))(chosen, rank.rank, comm, device)
    instrs = program_of(chosen).ranks[rank.rank]
    kernels.leave = leaving(instrs)
    rank.describe([*(instr.label for instr in instrs), *AFTERWARDS])
    witness = Witness(kernels)
    lanes = Lanes(instrs, kernels.table(), beat=rank.beat, memory=memory, **device_hooks(device))
    lanes.gauge, lanes.inside = witness.note, partial(stamps, comm)
    snaps, peak, wire = Snapshots(), 0, 0
    try:
        for step in range(steps):
            before = kernel_bytes()
            metrics = _one_step(chosen, kernels, lanes, step)
            wire += kernel_bytes() - before
            peak = max(peak, sum(state_bytes(kernels).values()))
            snapshot(snaps, kernels, step)
            snaps.metrics.append(metrics)
            _tell(rank, lanes, metrics, steps)
            _tell_routing(rank, kernels, step)
            witness.tell(rank, step)
    finally:
        lanes.close()
    rank.beat(steps, len(instrs))
    result = measurements(kernels, comm, snaps, peak, wire)
    result["peak"] = witness.peak
    result["backend"] = {"name": backend.name, "device": device.type, "note": backend.note}
    rank.beat(steps, len(instrs) + 1)
    if parity or save:
        collected(snaps, kernels)
    if rank.rank == 0:
        save_outputs(chosen, snaps.weights, snaps.grads, save or {})
        if parity and steps:
            rank.emit({"event": "parity"})
            rank.beat(steps, len(instrs) + 2)
            result["parity"] = compared(chosen, snaps)
    return result


def meets(plan: Plan) -> bool:
    """Whether a rank has anybody to meet; a ZeRO group does, though it be of one."""
    return plan.world_size > 1 or plan.zero > 0


def join(rank: Rank, plan: Plan, backend: Backend) -> torch.device:
    """Meet the other ranks, if there are any; the device to work on."""
    if meets(plan):
        rank.init(backend)
    if backend.device == "cuda":
        return torch.device("cuda", rank.local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def device_hooks(device: torch.device) -> dict[str, Any]:
    """What lanes need of a device: how to wait for it, how a lane beside enters it."""
    if device.type != "cuda":
        return {}

    def enter_side() -> None:
        torch.cuda.set_device(device)
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch ships no types
        torch.cuda.set_stream(stream)

    return {
        "sync": lambda: torch.cuda.current_stream(device).synchronize(),
        "enter_side": enter_side,
    }


def stamps(comm: Comm | None) -> list[Stamp]:
    """The messages that this thread has brought to their end since it last asked."""
    if comm is None:
        return []
    return [(sent.op, sent.axis, sent.bytes, sent.start, sent.done) for sent in comm.booked.since()]


def _one_step(plan: Plan, kernels: TrainKernels, lanes: Lanes, step: int) -> dict[str, Any]:
    holds = kernels.load(step)
    start = time.perf_counter()
    left = lanes.run(step, holds)
    seconds = time.perf_counter() - start
    loss, norm = loss_and_norm(plan, kernels, left)
    return {
        "step": step,
        "loss": loss,
        "grad_norm": norm,
        "tokens_per_s": plan.tokens_per_step / seconds,
        "seconds": seconds,
    }


def loss_and_norm(
    plan: Plan, kernels: TrainKernels, left: Mapping[Value, Any]
) -> tuple[float, float]:
    """What a step left behind: its loss, and the norm of its gradient."""
    if v.TOTAL in left:
        loss, squares = left[v.TOTAL].tolist()
        return float(loss), float(squares) ** 0.5
    loss = left[v.TOTAL_LOSS if v.TOTAL_LOSS in left else v.loss(plan.microbatches - 1)]
    return float(loss), float(kernels.grad_norm)


def _tell(rank: Rank, lanes: Lanes, metrics: Mapping[str, Any], steps: int) -> None:
    notes, lanes.notes = lanes.notes, []
    rank.emit({"event": "notes", "rank": rank.rank, "notes": notes})
    if rank.rank == 0:
        rank.emit({"event": "progress", "steps": steps, **metrics})


def _tell_routing(rank: Rank, kernels: TrainKernels, step: int) -> None:
    if routed := kernels.routing(step):
        rank.emit({"event": "routing", "rank": rank.rank, "rows": routed})


def measurements(
    kernels: TrainKernels, comm: Comm | None, snaps: Snapshots, peak: int, wire: int
) -> dict[str, Any]:
    """What a rank found after its last step, JSON-ready."""

    def rows(control: bool) -> list[list[Any]]:
        counts = comm.counts(control=control) if comm else {}
        return [[axis, op, *count] for (axis, op), count in counts.items()]

    counts, control = rows(control=False), rows(control=True)  # of the steps alone
    known = [*snaps.grads.values(), *snaps.params.values()]
    for micro in kernels.micro.values():
        known += [micro.ids, micro.labels, micro.place.rows, micro.place.positions]
    stray = unaccounted(kernels, known)  # before another forward runs
    kept = activations(kernels) if kernels.computes else {}
    return {
        "counts": counts,
        "control": control,
        "memory": state_bytes(kernels),
        "weight_copies": kernels.copies,
        "peak_state_bytes": peak or sum(state_bytes(kernels).values()),
        "activations": kept,
        "routed": kernels.routing(0) if kernels.computes else [],
        "unaccounted": stray,
        "kernel_wire_bytes": wire,
        "metrics": snaps.metrics,
        "sources": kernels.sources(),
        "versions": {"torch": torch.__version__},
    }


def kernel_bytes() -> int:
    """Bytes this process has written so far, by the kernel's own count; 0 where it keeps none."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        return 0
    return int(text.split("wchar:")[1].split()[0])

"""Training for real: every rank runs its program on its own process, and says what it measured.

`train` is the target that launch.Pool and torchrun start on each rank. While it runs it emits
{"event": "notes"} (what the lanes noted) and, on rank 0, {"event": "progress"}; it returns the
rank's measurements. Nothing here predicts: report.py lays the two sides together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallel_core import values as v
from parallel_core.activations.offload import leaving
from parallel_core.cases import program_of
from parallel_core.comm import Comm
from parallel_core.expert_kernels import (
    ExpertGatherKernels,
    ExpertKernels,
    ExpertStageKernels,
    ExpertStashKernels,
    ExpertZeroKernels,
)
from parallel_core.kernels import TrainKernels
from parallel_core.lanes import Lanes
from parallel_core.machine import COMPARED_AT_ONCE
from parallel_core.plan import Optimizer, Plan
from parallel_core.program import Value
from parallel_core.rank import Backend, Rank, choose_backend
from parallel_core.recording import Stamp
from parallel_core.resident import activations, live_bytes, state_bytes, unaccounted
from parallel_core.saving import save_outputs
from parallel_core.sharded_stage_kernels import (
    ExpertGatherStageKernels,
    ExpertZeroStageKernels,
    GatherStageKernels,
    ZeroStageKernels,
)
from parallel_core.stage_kernels import StageKernels
from parallel_core.stash_kernels import StashKernels
from parallel_core.witness import Witness
from parallel_core.zero3_kernels import GatherKernels
from parallel_core.zero_kernels import ZeroKernels

if TYPE_CHECKING:
    from parallel_core.oracle import OracleRun

AFTERWARDS = ("measuring what is resident", "saving", "the comparison with one process")
"""What a rank does after its last step, named for the heartbeat."""

PROBED_STEPS = 3
"""Steps after which the weights are compared with one process."""


@dataclass
class Snapshots:
    """What the probe and the savers need of a run, copied between steps."""

    grads: dict[str, Tensor] = field(default_factory=dict)  # of the first step
    params: dict[str, Tensor] = field(default_factory=dict)  # after the last probed step
    weights: dict[str, Tensor] = field(default_factory=dict)  # at the end
    metrics: list[dict[str, Any]] = field(default_factory=list)


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
            _snapshot(snaps, kernels, step)
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
        _collect(snaps, kernels)
    if rank.rank == 0:
        save_outputs(chosen, snaps.weights, snaps.grads, save or {})
        if parity and steps:
            rank.emit({"event": "parity"})
            rank.beat(steps, len(instrs) + 2)
            result["parity"] = _parity(chosen, snaps)
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


def kernels_of(plan: Plan) -> type[TrainKernels]:
    """The kernels that the plan's axes need."""
    if plan.pp > 1 and plan.asynchronous:
        return ExpertStashKernels if plan.model.experts else StashKernels
    return KERNELS[plan.pp > 1, {2: 1}.get(plan.zero, plan.zero), plan.model.experts > 0]


KERNELS: dict[tuple[bool, int, bool], type[TrainKernels]] = {
    (False, 0, False): TrainKernels,
    (False, 0, True): ExpertKernels,
    (False, 1, False): ZeroKernels,
    (False, 1, True): ExpertZeroKernels,
    (False, 3, False): GatherKernels,
    (False, 3, True): ExpertGatherKernels,
    (True, 0, False): StageKernels,
    (True, 0, True): ExpertStageKernels,
    (True, 1, False): ZeroStageKernels,
    (True, 1, True): ExpertZeroStageKernels,
    (True, 3, False): GatherStageKernels,
    (True, 3, True): ExpertGatherStageKernels,
}
"""By: a pipeline, ZeRO's stage (2 shares 1's), experts."""


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


def _snapshot(snaps: Snapshots, kernels: TrainKernels, step: int) -> None:
    if not kernels.speaks or step >= PROBED_STEPS:
        return  # replicas are equal: the first speaks for them
    grads, snaps.params = kernels.snapshot()
    if step == 0:
        snaps.grads = grads


def _collect(snaps: Snapshots, kernels: TrainKernels) -> None:
    """Bring what the ranks hold apart to rank 0."""
    if kernels.speaks:
        snaps.weights = kernels.collect(kernels.snapshot()[1])
        snaps.grads, snaps.params = kernels.collect(snaps.grads), kernels.collect(snaps.params)


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


def _parity(plan: Plan, snaps: Snapshots) -> dict[str, Any]:
    """The run against one process (oracle.py): losses and gradient norms of 3 steps, the gradients
    of the first, the weights after the third.

    AdamW's weights are compared in float64 only: where a gradient is rounding noise, AdamW turns
    its sign into a full step, so lower precision would compare noise with noise.
    """
    from parallel_core import oracle, oracle_stale

    steps = min(len(snaps.metrics), PROBED_STEPS)
    rows = None if plan.tokens_per_step <= COMPARED_AT_ONCE else plan.rows_per_microbatch
    if plan.asynchronous:
        truth = oracle_stale.train_stale(plan, steps, snapshot_after=PROBED_STEPS)
    else:
        truth = oracle.train(plan.single(), steps, snapshot_after=PROBED_STEPS, rows_at_once=rows)
    return compare(plan, snaps, truth, steps)


def compare(plan: Plan, snaps: Snapshots, truth: OracleRun, steps: int) -> dict[str, Any]:
    """The first `steps` steps of a run against the truth."""
    from parallel_core import oracle

    losses = [metric["loss"] for metric in snaps.metrics[:steps]]
    exact = plan.optimizer == Optimizer.SGD or plan.dtype == "float64"
    normed = steps if exact else 1  # later gradients are those of weights that AdamW moved apart
    norms = [metric["grad_norm"] for metric in snaps.metrics[:normed]]
    grads = {name: g.cpu() for name, g in snaps.grads.items()}
    params = {name: p.cpu() for name, p in snaps.params.items()}
    errors = {
        "loss": oracle.relative_error(_named(losses), _named(truth.losses)),
        "gradient norm": oracle.relative_error(_named(norms), _named(truth.grad_norms[:normed])),
        "gradients": oracle.relative_error(grads, truth.grads),
        "parameters": oracle.relative_error(params, truth.params),
    }
    counted = ["loss", "gradient norm", "gradients"]
    if exact:
        counted.append("parameters")
    return {
        "max_rel_error": max(errors[name] for name in counted),
        "tensors": len(grads),
        "steps": steps,
        "errors": errors,
        "counted": counted,
        "max_abs_error": max((float((grads[n] - g).abs().max()) for n, g in truth.grads.items())),
    }


def _named(numbers: Sequence[float]) -> dict[str, Tensor]:
    """Numbers as float64 tensors by step: a float32 one would round the difference away."""
    return {str(i): torch.tensor(x, dtype=torch.float64) for i, x in enumerate(numbers)}


def kernel_bytes() -> int:
    """Bytes this process has written so far, by the kernel's own count; 0 where it keeps none."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        return 0
    return int(text.split("wchar:")[1].split()[0])

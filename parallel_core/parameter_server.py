"""A parameter server on real processes: dp workers and one server, the last rank.

`train` is the target that launch.Pool starts on each rank. It emits {"event": "notes"}, and on
the server {"event": "progress"} once a step and, asynchronous, {"event": "updates"}. A step of an
asynchronous run is as many updates as there are workers, so that it has seen as much text as a
synchronous one.

The server waits for whoever pushes first and sleeps until then. Which update was whose it writes
down; given that order again, it takes the pushes in it whatever comes first, and every weight is
the same to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from parallel_core import values as v
from parallel_core.comm import Comm
from parallel_core.data import server_step
from parallel_core.data.parameter_server import Desk, Update
from parallel_core.parameter_server_kernels import ServerKernels, WorkerKernels
from parallel_core.parameter_server_worker import Part, Worker
from parallel_core.plan import Plan, Server
from parallel_core.program import ProgramError
from parallel_core.rank import Backend, Rank, choose_backend
from parallel_core.resident import live_bytes
from parallel_core.runtime import join
from parallel_core.saving import save_outputs
from parallel_core.truth_beside import PROBED_STEPS, compare


def train(
    rank: Rank,
    *,
    plan: Mapping[str, Any],
    steps: int,
    parity: bool = True,
    save: Mapping[str, str | None] | None = None,
    replay_order: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Train `steps` steps as worker or server; the rank's measurements, JSON-ready.

    `replay_order` names the worker of each update of an asynchronous run; there must be dp of
    them a step. Raises ProgramError for an order that cannot be.
    """
    chosen = Plan.of(**plan)
    backend = _patient(choose_backend(rank.local_size))
    device = join(rank, chosen, backend)
    memory = live_bytes(device)
    comm = Comm(chosen.mesh, rank.rank, staged=backend.staged)
    place = (chosen, rank.rank, comm, device)
    part: Part
    if rank.rank < chosen.dp:
        part = Worker(rank, WorkerKernels(*place), steps=steps, memory=memory)
    else:
        part = ParameterServer(rank, ServerKernels(*place), steps=steps, memory=memory)
        part.replay_order = replay_order
    found = part.run()
    found["backend"] = {"name": backend.name, "device": device.type, "note": backend.note}
    told = part.findings(parity and steps > 0, save or {})
    return {**found, **_shared(comm, chosen.dp, told)}


def _patient(backend: Backend) -> Backend:
    """The same, unless it cannot wait for whoever comes first."""
    if backend.name != "nccl":
        return backend
    note = "a server waits for any worker, which NCCL cannot: gloo, staged through host memory"
    return Backend("gloo", backend.device, staged=True, note=note)


def _shared(comm: Comm, server: int, told: Mapping[str, Any]) -> dict[str, Any]:
    """What the server found, on every rank; nobody leaves before."""
    if comm.rank == server:
        text = torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)
        for worker in range(server):
            comm.hand_over(torch.tensor([len(text)]), worker)
            comm.hand_over(text, worker)
        return dict(told)
    size = comm.take_over(torch.empty(1, dtype=torch.int64), server)
    text = comm.take_over(torch.empty(int(size), dtype=torch.uint8), server)
    heard: dict[str, Any] = json.loads(bytes(text.numpy()))
    return heard


class ParameterServer(Part):
    """Hands out weights, takes gradients, updates. `updates` are those of an asynchronous run."""

    def __init__(self, rank: Rank, kernels: ServerKernels, **more: Any) -> None:
        super().__init__(rank, kernels, **more)
        self.kernels = kernels
        self.replay_order: Sequence[int] | None = None
        self.updates: list[Update] = []
        self._losses: list[float] = []
        self._squares: list[float] = []
        self._told = self._begun = time.perf_counter()

    def in_step(self) -> None:
        """One update a step, from the gradients of all workers."""
        instrs = server_step.synchronous(self.plan).ranks[self.rank.rank]
        for step in range(self.steps):
            self.hand.begin(step)
            self.hand.store = self.kernels.load(step)
            self.hand.run(instrs)
            loss, squares = self.hand.store[v.TOTAL].tolist()
            self._end_step(step, loss, squares**0.5)

    def out_of_step(self) -> None:
        """One update a gradient, in the order given or in that of arrival."""
        workers, order = self.plan.dp, self.replay_order
        desk = Desk(workers, self.steps * workers, self.plan.staleness_bound)
        if order is not None and len(order) != desk.total:
            raise ProgramError(
                f"the order names {len(order)} updates: {self.steps} steps of {workers} workers"
                f" have {desk.total}"
            )
        self.hand.store = self.kernels.load(0)
        self._answer(desk)
        for number in range(desk.total):
            self._take(desk, None if order is None else order[number])
            self._answer(desk)
            if desk.applied % workers == 0:
                step = slice(number + 1 - workers, number + 1)
                loss, squares = (sum(x[step]) / workers for x in (self._losses, self._squares))
                self._emit_updates(step)
                self._end_step(number // workers, loss, squares**0.5)
        self.tell()

    def _answer(self, desk: Desk) -> None:
        """Weights to whoever may have them, or the word that there is nothing left to do."""
        for worker in desk.hand_out():
            self.hand.run(server_step.hand_out(self.roles, worker, None, desk.applied))
        self.kernels.going_home = True
        for worker in desk.send_home():
            self.hand.run([server_step.send_home(worker, desk.applied)])
        self.kernels.going_home = False

    def _take(self, desk: Desk, wanted: int | None) -> None:
        """The next push, of anybody or of the worker wanted, becomes an update."""
        number = desk.applied
        self.hand.round = number // self.plan.dp
        if wanted is not None:
            desk.must_be_at_work(wanted)
        first, _ = server_step.take(self.roles, wanted or 0, number)
        self.hand.run([replace(first, peer=wanted)])
        worker = self.kernels.came_from
        _, grads = server_step.take(self.roles, worker, number)
        update = desk.apply(worker, time.perf_counter() - self._begun)
        self.hand.run([grads, server_step.apply(self.roles, update)])
        self.updates.append(update)
        self._losses.append(float(self.hand.store[v.loss(number)]))
        self._squares.append(float(self.kernels.grad_norm) ** 2)
        if number == 0:
            self.snaps.grads = self.kernels.flat.named(self.kernels.flat.grads)

    def _emit_updates(self, step: slice) -> None:
        rows = [[u.worker, u.version, u.seconds] for u in self.updates[step]]
        rows = [[*row, loss] for row, loss in zip(rows, self._losses[step], strict=True)]
        total = self.steps * self.plan.dp
        self.rank.emit({"event": "updates", "total": total, "updates": rows})

    def _end_step(self, step: int, loss: float, norm: float) -> None:
        seconds, self._told = time.perf_counter() - self._told, time.perf_counter()
        rate = self.plan.tokens_per_step / seconds
        row = {"step": step, "loss": loss, "grad_norm": norm, "tokens_per_s": rate}
        self.snaps.metrics.append({**row, "seconds": seconds})
        if step < PROBED_STEPS:
            grads, self.snaps.params = self.kernels.snapshot()
            self.snaps.grads = self.snaps.grads or grads
        self.tell()
        self.rank.emit({"event": "progress", "steps": self.steps, **self.snaps.metrics[-1]})

    def findings(self, parity: bool, save: Mapping[str, str | None]) -> dict[str, Any]:
        """What only the server knows, JSON-ready: of the weights, the updates, the comparison."""
        grads, weights = self.snaps.grads, self.kernels.snapshot()[1]
        save_outputs(self.plan, weights, grads, save)
        digest = hashlib.sha256()
        for name in sorted(weights):
            digest.update(weights[name].cpu().contiguous().view(torch.uint8).numpy().data)
        told = {
            "metrics": self.snaps.metrics,
            "updates": [[u.worker, u.version, u.seconds] for u in self.updates],
            "losses": self._losses,
            "digest": digest.hexdigest(),
        }
        if parity:
            self.rank.emit({"event": "parity"})
            self.rank.beat(self.steps, len(self.labels) + 2)
            told["parity"] = self._compared()
        return told

    def _compared(self) -> dict[str, Any]:
        """The first steps against one process: the usual one, or one that is as stale."""
        from parallel_core import oracle, oracle_server

        steps = min(self.steps, PROBED_STEPS)
        if self.plan.parameter_server == Server.SYNC:
            truth = oracle.train(self.plan.single(), steps, snapshot_after=PROBED_STEPS)
        else:
            first = self.updates[: steps * self.plan.dp]
            pushes = [(update.worker, update.version) for update in first]
            truth = oracle_server.train_pushed(self.plan, pushes)
        return compare(self.plan, self.snaps, truth, steps)

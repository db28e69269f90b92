"""Worker functions for the tests of the parameter server, some with a fault planted on purpose."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from parallel_core import parameter_server, parameter_server_worker
from parallel_core.parameter_server_kernels import ServerKernels, WorkerKernels
from parallel_core.program import Instr, Op, Value
from parallel_core.rank import Rank
from parallel_core.unfolding import Unfolding

Reads = Mapping[Value, Any]


class ForgetsOne(ServerKernels):
    """Leaves worker 1's gradient out of the sum."""

    def add(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        if instr.where == "worker1":
            return [self.flat.grads] * len(instr.writes)
        return super().add(instr, reads)


class HandsOutOldWeights(ServerKernels):
    """Sends the weights as they were at the start, for ever."""

    def load(self, step: int) -> dict[Value, Any]:
        self.old = self.flat.params.clone()
        return super().load(step)

    def send(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        newest = self.flat.params
        self.flat.params = self.old
        try:
            return super().send(instr, reads)
        finally:
            self.flat.params = newest


class AppliesTwice(ServerKernels):
    """Every gradient makes two updates."""

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        super().optimize(instr, reads)
        return super().optimize(instr, reads)


class SaysMore(WorkerKernels):
    """Workers 0 and 1 exchange a message that no program names; the numbers stay right."""

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        assert self.comm is not None
        if instr.where == "embed" and self.rank == 0:
            self.comm.send(torch.zeros(1000), 1)
        elif instr.where == "embed" and self.rank == 1:
            self.comm.recv(torch.zeros(1000), 0)
        return super().backward(instr, reads)


class Dies(WorkerKernels):
    """Worker 1 is killed in its third gradient."""

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        if self.rank == 1 and instr.mb == 2 and instr.where == "layer0":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().backward(instr, reads)


FAULTS: dict[str, type[ServerKernels] | type[WorkerKernels]] = {
    "forgets one": ForgetsOne,
    "hands out old weights": HandsOutOldWeights,
    "applies twice": AppliesTwice,
    "says more": SaysMore,
    "dies": Dies,
}


@contextmanager
def planted(fault: str | None) -> Iterator[None]:
    """The fault's kernels in place of the right ones."""
    if fault is None:
        yield
        return
    name = "ServerKernels" if issubclass(FAULTS[fault], ServerKernels) else "WorkerKernels"
    right = getattr(parameter_server, name)
    setattr(parameter_server, name, FAULTS[fault])
    yield
    setattr(parameter_server, name, right)


class Recorded(Unfolding):
    """Also keeps what ran: op, where, lane, and whom it met."""

    def __init__(self, table: Any, *rest: Any, **more: Any) -> None:
        super().__init__(table, *rest, **more)
        self.kernels = next(iter(table.values())).__self__
        self.ran: list[list[Any]] = []

    def _run(self, instr: Instr) -> None:
        super()._run(instr)
        first = instr.op == Op.RECV and instr.peer is None
        peer = self.kernels.came_from if first else instr.peer
        self.ran.append([instr.op, instr.where, str(instr.lane), peer])


def train_all(rank: Rank, *, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Several runs by the same processes, each of which says first that it begins."""
    results, hands = [], []

    def recorded(*args: Any, **more: Any) -> Recorded:
        hands.append(Recorded(*args, **more))
        return hands[-1]

    parameter_server_worker.Unfolding = recorded
    for number, run in enumerate(runs):
        args = dict(run)
        rank.emit({"event": "run", "number": number})
        with planted(args.pop("fault", None)):
            result = parameter_server.train(rank, **args)
        results.append({**result, "ran": hands.pop().ran})
        gc.collect()
    return results

"""Worker functions for the tests of data parallelism, some with a fault planted on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from parallel_core import runtime
from parallel_core.cases import program_of
from parallel_core.kernels import TrainKernels
from parallel_core.ledger import messages
from parallel_core.plan import Plan
from parallel_core.program import Instr, Value
from parallel_core.rank import Rank
from parallel_core.resident import live_bytes
from parallel_core.sizes import value_bytes


class ExtraMessage(TrainKernels):
    """Sums the first bucket a second time (of zeros: the numbers stay right, the wire does not)."""

    def all_reduce(self, instr: Instr, reads: Mapping[Value, Any]) -> Sequence[Any]:
        if instr.where == "bucket0":
            assert self.comm is not None
            self.comm.all_reduce(torch.zeros(1000), "dp")
        return super().all_reduce(instr, reads)


class LeakedClone(TrainKernels):
    """Keeps a copy of the gradients after every step."""

    def optimize(self, instr: Instr, reads: Mapping[Value, Any]) -> Sequence[Any]:
        self.leak = self.flat.grads.clone()
        return super().optimize(instr, reads)


class SkippedReduction(TrainKernels):
    """Leaves the last bucket to itself on every rank."""

    def all_reduce(self, instr: Instr, reads: Mapping[Value, Any]) -> Sequence[Any]:
        if instr.where == "bucket1":
            return 0, *([True] * len(instr.writes))
        return super().all_reduce(instr, reads)


class MeanInsteadOfSum(TrainKernels):
    """Divides the summed gradients by dp although the loss already did."""

    def optimize(self, instr: Instr, reads: Mapping[Value, Any]) -> Sequence[Any]:
        self.flat.grads /= self.plan.dp
        return super().optimize(instr, reads)


class KeptActivation(TrainKernels):
    """Every layer keeps its output once more for the backward; the numbers do not change."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        forward = self.model.forward_unit

        def keeping(unit: str, x: torch.Tensor, place: Any) -> torch.Tensor:
            y = forward(unit, x, place)
            return Keep.apply(y) if unit.startswith("layer") else y

        self.model.forward_unit = keeping


class Keep(torch.autograd.Function):
    """The identity, with a copy saved for nothing."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(y.clone())
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        return dy


FAULTS = {
    "kept activation": KeptActivation,
    "none": TrainKernels,
    "extra message": ExtraMessage,
    "leaked clone": LeakedClone,
    "skipped reduction": SkippedReduction,
    "mean instead of sum": MeanInsteadOfSum,
}


def train_all(rank: Rank, plans: list[dict[str, Any]], steps: int, **more: Any) -> list[Any]:
    """Every plan in turn in the same processes: starting them is what takes the time."""
    return [runtime.train(rank, plan=plan, steps=steps, **more) for plan in plans]


def train_with_fault(rank: Rank, plan: dict[str, Any], steps: int, fault: str) -> Any:
    """One run with a fault planted."""
    return runtime.train(rank, plan=plan, steps=steps, make=FAULTS[fault])


def messages_as_recorded(rank: Rank, plan: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """One step's messages on this rank: as comm.py recorded them, and as the program names them."""
    chosen = Plan.of(**plan)
    rank.init()
    comm = runtime.Comm(chosen.mesh, rank.rank)
    kernels = TrainKernels(chosen, rank.rank, comm, torch.device("cpu"))
    instrs = program_of(chosen).ranks[rank.rank]
    lanes = runtime.Lanes(instrs, kernels.table())
    lanes.run(0, kernels.load(0))
    lanes.close()
    size = value_bytes(chosen)
    named = [
        [op.value, axis, payload]
        for instr in instrs
        if instr.op.is_message
        for op, axis, payload in messages(instr, instr.axis or "", size)
    ]
    return [[sent.op, sent.axis, sent.bytes] for sent in comm.log], named


def allocated(rank: Rank, sizes: list[int]) -> list[dict[str, int]]:
    """What live_bytes shows of tensors of so many bytes, while they live and after."""
    told = []
    for size in sizes:
        read = live_bytes(torch.device("cpu"))
        tensor = torch.ones(size, dtype=torch.uint8)
        seen = read()
        del tensor
        told.append({"bytes": size, "seen": seen, "after": read()})
    return told


def bit_equal_replicas(rank: Rank, plan: dict[str, Any], steps: int) -> bool:
    """Whether every rank holds the same weights to the bit after some steps."""
    chosen = Plan.of(**plan)
    rank.init()
    comm = runtime.Comm(chosen.mesh, rank.rank)
    kernels = TrainKernels(chosen, rank.rank, comm, torch.device("cpu"))
    lanes = runtime.Lanes(program_of(chosen).ranks[rank.rank], kernels.table())
    for step in range(steps):
        lanes.run(step, kernels.load(step))
    lanes.close()
    mine = kernels.flat.params
    first = mine.clone()
    dist.broadcast(first, 0)
    return bool(torch.equal(first, mine))

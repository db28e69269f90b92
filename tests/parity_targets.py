"""Worker functions for the tests of the parity matrix: the comparison, with a fault planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dp_targets import MeanInsteadOfSum, SkippedReduction
from expert_targets import RouterUnsummed, ScaledByEp
from pipeline_targets import DividedTwice, SkippedExchange, SkippedW, WrongMicrobatch
from tensor_fault_targets import OneNorm, Uncounted, Unsummed, WrongWords
from zero_targets import SkippedScatter

from parallel_core.crossing import Flow
from parallel_core.kernels import TrainKernels
from parallel_core.parity.ranks import compare
from parallel_core.program import Instr
from parallel_core.rank import Rank


class LateReplica(TrainKernels):
    """The last rank's weights are off after the second update, where nobody reads them."""

    def optimize(self, instr: Instr, reads: Any) -> Sequence[Any]:
        made = super().optimize(instr, reads)
        self.updates = getattr(self, "updates", 0) + 1
        if self.updates == 2 and self.rank == self.plan.world_size - 1:
            weight = self.flat.parameters[2][0]
            weight.data.mul_(1.001)
        return made


class LouderLayer(TrainKernels):
    """On rank 1, layer1 hands on a little more than it should, in the second microbatch."""

    def run_unit(self, unit: str, flow: Flow, mb: int) -> Flow:
        made = super().run_unit(unit, flow, mb)
        if self.rank == 1 and unit == "layer1" and mb == 1:
            return Flow(made.x * 1.01, made.skip)
        return made


class QuietBackward(TrainKernels):
    """On rank 1, layer1's backward hands half of its gradient down to layer0."""

    def run_unit(self, unit: str, flow: Flow, mb: int) -> Flow:
        if self.rank == 1 and unit == "layer1":
            half = flow.x * 0.5
            flow = Flow(half + half.detach(), flow.skip)
        return super().run_unit(unit, flow, mb)


FAULTS: dict[str, type[TrainKernels]] = {
    cls.__name__: cls
    for cls in (
        *(LateReplica, LouderLayer, QuietBackward, MeanInsteadOfSum, SkippedReduction),
        *(RouterUnsummed, ScaledByEp, DividedTwice, SkippedExchange, SkippedW, WrongMicrobatch),
        *(OneNorm, Uncounted, Unsummed, WrongWords, SkippedScatter),
    )
}

PREFIX = "with_"


def with_fault(rank: Rank, *, fault: str, **args: Any) -> Mapping[str, Any]:
    """The comparison of a layout whose kernels have a fault."""
    return compare(rank, make=FAULTS[fault], **args)


def many(rank: Rank, *, runs: list[list[Any]]) -> list[Mapping[str, Any]]:
    """(fault or None, plan) one after another in the same processes, everything looked at."""
    return [
        compare(rank, plan=plan, steps=3, look=True, make=FAULTS[fault] if fault else None)
        for fault, plan in runs
    ]


def __getattr__(name: str) -> Any:
    """`parity_targets:with_OneNorm` is the comparison with that fault."""
    if name.removeprefix(PREFIX) in FAULTS:
        return partial(with_fault, fault=name.removeprefix(PREFIX))
    raise AttributeError(name)


def breaks(rank: Rank, **_: Any) -> None:
    """Rank 1 raises at once."""
    if rank.rank == 1:
        raise ValueError("on purpose")

"""Tensor-parallel runs with a reduction left out or an index wrong: what parity has to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from parallel_core.kernels import Reads, TrainKernels
from parallel_core.lanes import Kernel
from parallel_core.program import Instr, Op
from parallel_core.rank import Rank
from parallel_core.runtime import train
from parallel_core.tensor.conjugate import Region
from parallel_core.tensor.embedding import VocabTable


class Unsummed(TrainKernels):
    """Parts of whole parameters, and copies of key/value heads, are sent but not written back."""

    def parts(self, axis: str) -> list[Tensor]:
        return [part.clone() for part in super().parts(axis)]


class OneNorm(TrainKernels):
    """The norm counts on every rank what all ranks hold."""

    def lay_out(self) -> None:
        super().lay_out()
        self.counted = [(0, self.flat.grads.numel())]


class Uncounted(TrainKernels):
    """g sums in the forward; f forgets to in the backward."""

    def make_model(self, units: Sequence[str]) -> Any:
        model = super().make_model(units)
        region, summed = model.region, model.region.summed
        region.summed = lambda x: summed(x) if self.forwards else x
        return model

    forwards = True

    def table(self) -> dict[Op, Kernel]:
        return super().table() | {Op.B: self._silent}

    def _silent(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        self.forwards = False
        made = super().backward(instr, reads)
        self.forwards = True
        return made


class WrongWords(TrainKernels):
    """A rank looks up its neighbour's words as its own."""

    def make_model(self, units: Sequence[str]) -> Any:
        model = super().make_model(units)
        for table in (m for m in model.modules() if isinstance(m, VocabTable)):
            table.region = Region(self.comm, (model.region.me + 1) % 2, 2, self.plan.sp)
        return model


FAULTS = {cls.__name__: cls for cls in (Unsummed, OneNorm, Uncounted, WrongWords)}


def train_with(
    rank: Rank, *, fault: str | None, plan: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """The errors that parity finds in a run with a fault, or with none."""
    make = FAULTS[fault] if fault else None
    result = train(rank, plan=plan, steps=2, make=make)
    return result.get("parity", {}).get("errors", {})

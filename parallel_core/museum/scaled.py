"""Switches: gradients and norms that are a whole number of times too large.

The loss that is printed is the right one: it is divided, or counted, somewhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from parallel_core.crossing import Kept
from parallel_core.kernels import TrainKernels
from parallel_core.model import Transformer
from parallel_core.program import Instr
from parallel_core.summing import Reads


class Scaled(TrainKernels):
    """The loss whose backward runs is `times` the one that is printed."""

    @property
    def times(self) -> int:
        """How much too large."""
        raise NotImplementedError

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """As ever, but for the end of the graph behind the loss."""
        kept, *out = super().forward(instr, reads)
        if self.numbers[instr.where] < len(self.pieces) - 1 or self.times == 1:
            return kept, *out
        assert isinstance(kept, Kept)
        return replace(kept, ends=(kept.ends[0] * self.times,)), *out


class MicrobatchesUndivided(Scaled):
    """The pipeline runs its backwards itself; who divides by the microbatches comes after it, and
    divides the loss alone."""

    @property
    def times(self) -> int:
        """The microbatches of a pipeline."""
        return self.plan.microbatches if self.plan.pp > 1 else 1


class LossTimesContext(Scaled):
    """The loss is multiplied by cp to make up for a mean over ranks that is a sum by now."""

    @property
    def times(self) -> int:
        """The ranks of a sequence."""
        return self.plan.cp


class ExpertsTimesRanks(TrainKernels):
    """Expert gradients are a mean over fewer ranks than their tokens came from."""

    def make_model(self, units: Sequence[str]) -> Transformer:
        """The rank's part of the model; its experts' gradients come out ep times as large."""
        model = super().make_model(units)
        for name, weight in model.named_parameters():
            if ".experts." in name:
                hook: Any = weight.register_hook
                hook(lambda grad: grad * self.plan.ep)
        return model


class NormCountedTwice(TrainKernels):
    """The norm goes over all that a rank holds: what two ranks hold, it counts twice."""

    def lay_out(self) -> None:
        """The usual buffers; of the table's copy too every element is counted."""
        super().lay_out()
        self.counted = [(0, self.flat.grads.numel())]

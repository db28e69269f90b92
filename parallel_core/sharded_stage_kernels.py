"""A pipeline's stages under ZeRO: what a split backward and two copies of a stage ask of shards.

I makes the gradients of norms, W those of products: from stage 2 on both land in one block, which
I opens and W hands on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from parallel_core.expert_kernels import ExpertKernels
from parallel_core.program import Instr, Op
from parallel_core.stage_kernels import StageKernels
from parallel_core.summing import Reads
from parallel_core.zero3_kernels import GatherKernels
from parallel_core.zero_kernels import ZeroKernels


class ZeroStageKernels(ZeroKernels, StageKernels):
    """One rank of a pipeline, with its shards. `opened` are the blocks between an I and its W."""

    def lay_out(self) -> None:
        """Blocks and shards."""
        self.opened: dict[tuple[int, int], Tensor] = {}
        super().lay_out()

    def input_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """dy -> dx; what already is there of the gradient lies in the microbatch's block."""
        assert instr.mb is not None
        u = self.numbers[instr.where]
        if self.plan.zero > 1 and self.shards.specs[u]:
            self.opened[instr.mb, u] = self._open(u)
        return super().input_half(instr, reads)

    def weight_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The rest of the gradient, into the same block."""
        assert instr.mb is not None
        u = self.numbers[instr.where]
        block = self.opened.pop((instr.mb, u), None)
        if block is not None:
            self._aim(u, block)
        made = super().weight_half(instr, reads)
        return made if block is None else [block] * len(instr.writes)

    def _copied(self, instr: Instr) -> Tensor:
        """This rank's shard of what has a copy on another rank."""
        values = instr.reads if instr.op == Op.SEND else instr.writes
        return self.shards.own(self.shards.grads, self.shards.number(values[0].at[0]))

    def add(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """A microbatch's shard to those before, or the other copy's to one's own."""
        if any(value.name == "came" for value in instr.reads):
            return StageKernels.add(self, instr, reads)
        return ZeroKernels.add(self, instr, reads)


class GatherStageKernels(GatherKernels, ZeroStageKernels):
    """The same where weights are gathered for each task."""

    def input_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The input half, with the weights gathered again."""
        with self._whole(instr, reads):
            return super().input_half(instr, reads)


class ExpertZeroStageKernels(ExpertKernels, ZeroStageKernels):
    """The same of a model of experts."""


class ExpertGatherStageKernels(ExpertKernels, GatherStageKernels):
    """The same of a model of experts."""

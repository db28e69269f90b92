"""A pipeline's stages under ZeRO: what a split backward and two copies of a stage ask of shards.

I makes the gradients of norms, W those of products: from stage 2 on both land in one block, which
I opens and W hands on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from parallel_core.expert_kernels import ExpertKernels
from parallel_core.pieces import TABLE, uses_table
from parallel_core.program import Instr, Op
from parallel_core.stage_kernels import StageKernels
from parallel_core.summing import Reads
from parallel_core.zero3_kernels import GatherKernels
from parallel_core.zero_kernels import ZeroKernels


class ZeroStageKernels(ZeroKernels, StageKernels):
    """One rank of a pipeline, with its shards. `opened` are the blocks between an I and its W, by
    microbatch, piece, and piece whose gradient it is."""

    def lay_out(self) -> None:
        """Blocks and shards."""
        self.opened: dict[tuple[int, int, int], Tensor] = {}
        super().lay_out()

    def input_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """dy -> dx; what already is there of the gradient lies in the microbatch's block."""
        assert instr.mb is not None
        for u in self._gradients_of(instr) if self.plan.zero > 1 else ():
            self.opened[instr.mb, self.numbers[instr.where], u] = self._open(u)
        return super().input_half(instr, reads)

    def weight_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The rest of the gradient, into the same block."""
        assert instr.mb is not None
        blocks: dict[int, Tensor] = {}
        for u in self._gradients_of(instr) if self.plan.zero > 1 else ():
            blocks[u] = self.opened.pop((instr.mb, self.numbers[instr.where], u))
            self._aim(u, blocks[u])
        made = super().weight_half(instr, reads)
        for u in blocks:
            self._turn_away(u)
        return [blocks.get(w.at[0], mark) for w, mark in zip(instr.writes, made, strict=True)]

    def _gradients_of(self, instr: Instr) -> list[int]:
        """The pieces of which a backward of the instruction's piece makes a gradient."""
        u = self.numbers[instr.where]
        mine = [TABLE] if uses_table(self.plan, u) else []
        return [w for w in (u, *mine) if self.shards.specs.get(w)]

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

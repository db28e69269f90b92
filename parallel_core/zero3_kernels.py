"""ZeRO-3 on real tensors: weights are gathered for a use and freed after it.

A forward's graph saves weights, and views of them, for its backward; they would keep the gathered
block alive. So the keeper packs what autograd saves of a gathered block as its place in that block
(unit, offset, shape, strides), and unpacks it from the block that is gathered for the backward.
Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from parallel_core.model import draw, draw_part
from parallel_core.params import param_specs
from parallel_core.pieces import TABLE, uses_table
from parallel_core.program import Instr
from parallel_core.summing import Reads
from parallel_core.zero_kernels import ZeroKernels


class GatherKernels(ZeroKernels):
    """One rank of ZeRO-3. `wholes` are the blocks that exist now, by unit."""

    def fill(self) -> None:
        """This rank's shard of every block; no weight is whole."""
        self.wholes = self.keeper.wholes
        self.nothing = self.shards.params.new_zeros(1)
        whole = {spec.name: spec for spec in param_specs(self.plan)}
        for b in self.shards.held:
            block = self.shards.blocks[b]
            own, start = self.shards.own(self.shards.params, b), self.shards.me(b) * block.shard
            for spec, first, last in self.shards.places(b):
                low, high = max(first, start), min(last, start + block.shard)
                if low >= high:
                    continue
                if spec.cut:
                    mine = draw_part(self.plan, whole[spec.name], spec.shape, self.shards.place)
                    drawn = mine.view(-1)[low - first : high - first]
                else:
                    drawn = draw(spec, self.plan.seed, low - first, high - first)
                own[low - start : high - start] = drawn
        for u in self.shards.specs:
            self._let_go(u)

    @property
    def placeholders(self) -> list[Tensor]:
        """The one element behind every weight that is not gathered."""
        return [self.nothing]

    def _let_go(self, u: int) -> None:
        """No weight of unit u has values any more; only shapes stay."""
        if (whole := self.wholes.pop(u, None)) is not None:
            self.alive.leaving(whole)
        for weight, spec in zip(self.shards.parameters[u], self.shards.specs[u], strict=True):
            weight.data = self.nothing.expand(spec.shape)

    def all_gather(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """w[N/ax] -> w[N], in memory of its own."""
        assert self.comm is not None and instr.axis is not None
        b = self.shards.number(instr.writes[0].at[0])
        own = self.shards.own(self.shards.params, b)
        whole = own.new_empty(self.shards.blocks[b].padded)
        self.alive.watch("params", whole)
        self.comm.all_gather(own, instr.axis, name=instr.where, out=whole)
        return own.nbytes, *([whole] * len(instr.writes))

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The unit's forward, with the weights gathered for it."""
        with self._whole(instr, reads):
            made = super().forward(instr, reads)
        return [*made, *([True] * (len(instr.writes) - len(made)))]

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The unit's backward, with the weights gathered again."""
        with self._whole(instr, reads):
            return super().backward(instr, reads)

    @contextmanager
    def _whole(self, instr: Instr, reads: Reads) -> Iterator[None]:
        """Weights point into the gathered blocks; those that the instruction frees are let go."""
        for value in instr.reads:
            if value.name == "full":
                u = value.at[0]
                self.wholes[u] = reads[value]
                for weight, view in self.shards.views(reads[value], self.shards.number(u)):
                    weight.data = view
        yield
        for value in instr.frees:
            if value.name == "full":
                self._let_go(value.at[0])

    @contextmanager
    def saving(self) -> Iterator[None]:
        """What lies in a gathered block is saved as its place there."""
        with super().saving(), saved_tensors_hooks(self.keeper.pack, self.keeper.unpack):
            yield

    def no_activations(self) -> list[Tensor]:
        """Gathered blocks are weights."""
        return [*super().no_activations(), *self.wholes.values()]

    @contextmanager
    def weights_of(self, u: int) -> Iterator[None]:
        """Some whole weights, of no value, for a forward that is only measured."""
        needed = [u] if self.shards.specs.get(u) else []
        if uses_table(self.plan, u):
            table = TABLE if TABLE in self.shards.specs else 0
            needed += [table] if table not in needed else []
        for unit in needed:
            b = self.shards.number(unit)
            self.wholes[unit] = self.shards.params.new_zeros(self.shards.blocks[b].padded)
            for weight, view in self.shards.views(self.wholes[unit], b):
                weight.data = view
        yield
        for unit in needed:
            self._let_go(unit)

"""Where a rank of ZeRO keeps weights and gradients: blocks, each cut into one shard a rank.

    stage   params               grads
    1       whole, own shard updated      whole
    2       whole, own shard updated      own shards; a block is whole while it is made
    3       own shards           own shards; a block is whole while it is used or made

A shard of stages 1 and 2 is a slice of the whole; nothing is kept twice. Padding is zero and stays
zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from parallel_core.data.blocks import Block, blocks, held_blocks
from parallel_core.params import ParamSpec
from parallel_core.pieces import weights_of
from parallel_core.plan import Plan


class Shards:
    """The buffers of one rank. `params` and `grads` are what stays, flat in the plan's dtype.

    `parameters` and `specs` go by the number of the unit, as in Flat.
    """

    def __init__(self, plan: Plan, model: nn.Module, device: torch.device, rank: int) -> None:
        self.plan, self.blocks = plan, blocks(plan)
        self.held = held_blocks(plan, rank)
        self.place = plan.mesh.coordinate(rank)
        dtype = getattr(torch, plan.dtype)
        whole = sum(self.blocks[b].padded for b in self.held)
        own = sum(self.blocks[b].shard for b in self.held)
        make = {"dtype": dtype, "device": device}
        self.params = torch.zeros(own if plan.zero == 3 else whole, **make)
        self.grads = torch.zeros(whole if plan.zero == 1 else own, **make)
        self._whole = whole
        mine = [self.blocks[b] for b in self.held]
        self.specs = {u: weights_of(plan, u) for block in mine for u in block.units}
        weights = dict(model.named_parameters())
        self.parameters = {u: [weights[s.name] for s in specs] for u, specs in self.specs.items()}

    def me(self, b: int) -> int:
        """Which shard of block b is this rank's."""
        return self.place[self.blocks[b].axis]

    def whole(self, buffer: Tensor, b: int) -> Tensor:
        """Block b of a buffer that holds whole blocks, padding included."""
        start = sum(self.blocks[i].padded for i in self.held if i < b)
        return buffer[start : start + self.blocks[b].padded]

    def own(self, buffer: Tensor, b: int) -> Tensor:
        """This rank's shard of block b, from a buffer of whole blocks or of shards."""
        size, me = self.blocks[b].shard, self.me(b)
        if buffer.numel() == self._whole:
            return self.whole(buffer, b)[me * size : (me + 1) * size]
        start = sum(self.blocks[i].shard for i in self.held if i < b)
        return buffer[start : start + size]

    def views(self, block: Tensor, b: int) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter of block b with its place in a whole block."""
        at = 0
        for u in self.blocks[b].units:
            for spec, weight in zip(self.specs[u], self.parameters[u], strict=True):
                yield weight, block[at : at + spec.numel].view(spec.shape)
                at += spec.numel

    def places(self, b: int) -> Iterator[tuple[ParamSpec, int, int]]:
        """Each parameter of block b, and where it starts and ends in it."""
        at = 0
        for u in self.blocks[b].units:
            for spec in self.specs[u]:
                yield spec, at, at + spec.numel
                at += spec.numel

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """(weights, gradient) of the rank's own shards, for the optimizer."""
        return [(self.own(self.params, b), self.own(self.grads, b)) for b in self.held]

    def runs(self, b: int, wanted: Callable[[ParamSpec], bool]) -> list[Tensor]:
        """The gradients of some parameters that lie in this rank's shard of block b."""
        own, start = self.own(self.grads, b), self.me(b) * self.blocks[b].shard
        found = []
        for spec, first, last in self.places(b):
            low, high = max(first - start, 0), min(last - start, len(own))
            if low < high and wanted(spec):
                found.append(own[low:high])
        return found

    def number(self, u: int) -> int:
        """The block that unit u lies in."""
        return next(b for b, block in enumerate(self.blocks) if u in block.units)

    def named(self, whole: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Whole blocks, by number, as parameters by name, in their own shapes."""
        return {
            spec.name: block[start:end].view(spec.shape)
            for b, block in whole.items()
            for spec, start, end in self.places(b)
        }


def padded(block: Block, like: Tensor) -> Tensor:
    """An empty whole block, its padding zero."""
    made = like.new_empty(block.padded)
    made[block.numel :].zero_()
    return made

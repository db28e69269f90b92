"""ZeRO 1 and 2 on real tensors: gradients scattered, shards updated, weights gathered.

B                stage 1: into the whole gradient; stage 2: into a block of the microbatch's own
reduce_scatter   the group's sum, this rank's shard of it
add              a microbatch's shard to those before (stages 2 and 3)
norm, O          over the rank's own shards
all_gather       the shards that the others have updated
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parallel_core import values as v
from parallel_core.gathering import collect, first_copy, held_before, is_first
from parallel_core.gauge import Alive
from parallel_core.grads import move_on_arrival, norm_of, settle_in
from parallel_core.kernels import TrainKernels
from parallel_core.lanes import Kernel
from parallel_core.model import init_weights
from parallel_core.pieces import TABLE
from parallel_core.program import Instr, Op, Value
from parallel_core.shards import Shards, padded
from parallel_core.summing import Reads
from parallel_core.update import Update


class ZeroKernels(TrainKernels):
    """One rank of ZeRO. `slots` says where a weight's next gradient goes (stages 2 and 3)."""

    def lay_out(self) -> None:
        """Blocks and shards instead of one flat buffer."""
        self.shards = Shards(self.plan, self.model, self.device, self.rank)
        self.alive = Alive()
        self.slots: dict[int, Tensor] = {}
        self.filled: set[int] = set()
        self.flat: Any = self.shards  # what the other kernels ask of a Flat, Shards has as well
        self.alive.watch("params", self.shards.params)
        self.alive.watch("grads", self.shards.grads)
        self.fill()
        for b in self.shards.held:
            self._take_gradients(b)
        self.update = Update(self.plan, self.shards.parts())

    def fill(self) -> None:
        """Whole weights on every rank."""
        for b in self.shards.held:
            for weight, view in self.shards.views(self.shards.whole(self.shards.params, b), b):
                weight.data = view
        init_weights(self.model, self.plan, self.shards.place)

    def _take_gradients(self, b: int) -> None:
        if self.plan.zero == 1:
            for weight, view in self.shards.views(self.shards.whole(self.shards.grads, b), b):
                settle_in(weight, view)
            return
        for u in self.shards.blocks[b].units:
            for weight in self.shards.parameters[u]:
                move_on_arrival(weight, self.slots, self.filled)

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        return super().table() | {
            Op.REDUCE_SCATTER: self.reduce_scatter,
            Op.ALL_GATHER: self.all_gather,
            Op.ADD: self.add,
        }

    def load(self, step: int) -> dict[Value, Any]:
        """What the rank holds at the start of a step."""
        every = (*range(len(self.pieces)), TABLE)
        return super().load(step) | {of(u): None for of in (v.shard, v.weight) for u in every}

    def state(self) -> dict[str, list[Tensor]]:
        """The tensors of the training state by kind."""
        return {
            "params": [self.shards.params],
            "grads": [self.shards.grads],
            "optimizer": list(self.update.tensors()),
        }

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """dy -> (gradient, dx); from stage 2 on the gradient lies in a block of its own."""
        if self.plan.zero == 1:
            return super().backward(instr, reads)
        made: dict[Value, Any] = {}
        for value in instr.writes:
            if value.name == "tie":
                made[value] = self._open(0)
            elif value.name == "grad":
                tied = next((reads[r] for r in instr.reads if r.name == "tie"), None)
                made[value] = self._open(value.at[0]) if tied is None else tied
        others = super().backward(instr, reads)
        for value in instr.writes:
            if value.name == "grad":
                self._turn_away(value.at[0])
        return [made.get(value, other) for value, other in zip(instr.writes, others, strict=True)]

    def begin(self, u: int) -> None:
        """Nothing is left from the microbatch before: every gradient leaves its weight at once."""
        if self.plan.zero == 1:
            super().begin(u)

    def _open(self, u: int) -> Tensor:
        """A block for the gradient of unit u."""
        b = self.shards.number(u)
        block = self.alive.watch("grads", padded(self.shards.blocks[b], self.shards.params))
        self._aim(u, block)
        return block

    def _aim(self, u: int, block: Tensor) -> None:
        """Have the next gradients of a block's weights land in it."""
        b = self.shards.number(u)
        for weight, view in self.shards.views(block, b):
            self.slots[id(weight)] = view
            self.filled.discard(id(weight))

    def _turn_away(self, u: int) -> None:
        """No gradient of unit u's weights is expected any more."""
        for weight in self.shards.parameters.get(u, ()):
            self.slots.pop(id(weight), None)

    def reduce_scatter(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """g[N]+ax -> g[N/ax]."""
        assert self.comm is not None and instr.axis is not None
        u = instr.reads[0].at[0]
        b = self.shards.number(u)
        if self.plan.zero == 1:
            whole = self.shards.whole(self.shards.grads, b)
        else:
            whole = reads[instr.reads[-1]]  # of the last unit: others of its block have no weights
        one_of_many = instr.writes[0].name == "gpart"
        place = None if one_of_many else self.shards.own(self.shards.grads, b)
        shard = self.comm.reduce_scatter(whole, instr.axis, name=instr.where, out=place)
        if self.plan.zero > 1:
            self.alive.leaving(whole)
        if one_of_many:
            self.alive.watch("grads", shard)
        return whole.nbytes, *([shard if one_of_many else True] * len(instr.writes))

    def add(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """This microbatch's shard to the sum of those before, in place."""
        part = next(value for value in instr.reads if value.name == "gpart")
        self.shards.own(self.shards.grads, self.shards.number(part.at[0])).add_(reads[part])
        self.alive.leaving(reads[part])
        return [True] * len(instr.writes)

    def gradient(self, instr: Instr) -> Tensor:
        """What an all-reduce over replicas sums: this rank's shard of the block."""
        return self.shards.own(self.shards.grads, self.shards.number(instr.writes[0].at[0]))

    def parts(self, axis: str) -> list[Tensor]:
        """The gradients in the rank's shards that are parts of a sum over a model axis."""
        held = self.shards.held
        return [run for b in held for run in self.shards.runs(b, lambda s: axis in s.partial)]

    def tally(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """[loss, squared norm]: the first of all who have the loss brings it, each its own shards;
        what several ranks of a model hold counts on one."""
        pair = torch.zeros(2, dtype=torch.float64, device=self.device)
        place = self.shards.place
        if not place[self.plan.shard_axis] and not place.get("tp", 0):
            for value in instr.reads:
                if value.name == "loss":
                    pair[0] += reads[value]
        if self.measure_norm or self.plan.clip:
            # shards of what is no expert's are cut over the experts' ranks as well
            counts = partial(is_first, self.plan, place={**place, "ep": 0})
            before = held_before(self.plan, place.get("pp", 0))
            for b in self.shards.held:
                if self.shards.blocks[b].units[0] not in before:
                    for run in self.shards.runs(b, counts):
                        pair[1] += norm_of(run).square()
        return [pair]

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """New weights in the rank's own shards, clipped by the norm over all of them."""
        return self.update_after_tally(instr, reads)

    def all_gather(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """w[N/ax] -> w[N], in place."""
        assert self.comm is not None and instr.axis is not None
        b = self.shards.number(instr.reads[0].at[0])
        shard = self.shards.own(self.shards.params, b)
        whole = self.shards.whole(self.shards.params, b)
        self.comm.all_gather(shard, instr.axis, name=instr.where, out=whole)
        return shard.nbytes, *([None] * len(instr.writes))

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copies of the rank's own shards, by the number of their block."""
        held, parts = self.shards.held, self.shards.parts()
        grads = {str(b): g.clone() for b, (_, g) in zip(held, parts, strict=True)}
        return grads, {str(b): w.clone() for b, (w, _) in zip(held, parts, strict=True)}

    @property
    def speaks(self) -> bool:
        """Whether the rank belongs to the first group of shards."""
        return self.shards.place.get("replica", 0) == 0

    def collect(self, mine: dict[str, Tensor]) -> dict[str, Tensor]:
        """The first group's shards, joined on its first ranks, whole tensors on rank 0."""
        whole: dict[int, Tensor] = {}
        for b in self.shards.held if mine else ():
            own, block = mine[str(b)], self.shards.blocks[b]
            first, *others = self.plan.mesh.group(self.rank, block.axis)
            if self.rank != first:
                assert self.comm is not None
                self.comm.hand_over(own, first)
                continue
            whole[b] = torch.cat([own, *(self._taken(own, rank) for rank in others)])
        if self.rank not in first_copy(self.plan):
            return {}
        return collect(self.plan, self.rank, self.comm, self.shards.named(whole))

    def _taken(self, like: Tensor, rank: int) -> Tensor:
        assert self.comm is not None
        return self.comm.take_over(torch.empty_like(like), rank)

"""A pipeline whose replicas share out their state: ZeRO over dp, stage by stage.

    zero=1   a stage's gradient is scattered at its last backward; updated shards are gathered
    zero=2   every microbatch's gradient is scattered when its backward has made it
    zero=3   weights are gathered for each task as well: two gathers and a scatter a microbatch

    pp=2 dp=2 zero=1   compute  ... B stage0 mb3, wait stage0, norm, O weights
                       comm     reduce_scatter stage0 @dp, all_reduce tally, all_gather stage0 @dp

The split of a backward stays: W makes the gradient, so it scatters; what I makes of norms waits for
it. Two copies of a stage exchange their shards, not their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.data.blocks import blocks, held_blocks
from parallel_core.data.sharded import block_name, gather, over_replicas, scatter
from parallel_core.data.zero2 import WHOLE
from parallel_core.data.zero3 import with_gathers
from parallel_core.pipeline_pieces import groups_of
from parallel_core.pipeline_step import Step
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program


def pipeline_zero(plan: Plan) -> Program:
    """The training step of a pipeline under ZeRO."""
    ranks, holds, keeps = [], [], []
    for rank in range(plan.world_size):
        mine = _Sharded(plan, rank)
        before, after = (v.shard, v.new_shard) if plan.zero == 3 else (v.weight, v.updated)
        ranks.append(tuple(mine.instrs()))
        holds.append((*mine.tokens, *map(before, mine.held)))
        keeps.append((*mine.tokens, *map(after, mine.held), v.TOTAL))
    return Program(plan.mesh, tuple(ranks), tuple(holds), tuple(keeps), plan.layout)


class _Sharded(Step):
    """One rank's step. `since` is the microbatch of a block's newest sum, `scattered` the blocks
    that were summed, in order."""

    def __init__(self, plan: Plan, rank: int) -> None:
        super().__init__(plan, rank)
        self.blocks, self.numbers = blocks(plan), held_blocks(plan, rank)
        self.closes = {self.blocks[b].units[-1]: b for b in self.numbers}
        self.since: dict[int, int] = {}
        self.scattered: list[int] = []

    def instrs(self) -> Iterator[Instr]:
        """The step, first instruction to last."""
        whole = list(self._until_update())
        if self.plan.zero == 3:
            yield from with_gathers(self.plan, whole)
        else:
            yield from whole
        yield from self._finish()

    def _until_update(self) -> Iterator[Instr]:
        tasks = self.order.ranks[self.here]
        left = {task.stage: task for task in tasks if task.op in (Op.B, Op.W)}
        losses = [t for t in tasks if t.op is Op.F and t.stage == self.lowering.last]
        names = {self.stages.piece(u).name: u for u in self.held}
        for task, group in groups_of(self.plan, self.lowering, self.here):
            for instr in group:
                makes = instr.op in (Op.B, Op.W)
                if makes and self.plan.zero > 1:
                    yield from self._room()
                yield instr
                if makes and (b := self.closes.get(names[instr.where])) is not None:
                    mb = instr.mb or 0
                    last = left[self.stages.piece(names[instr.where]).stage].mb == mb
                    if last or self.plan.zero > 1:
                        yield from self._scatter(b, mb, last=last)
            if losses and task == losses[-1]:
                yield from self._reduce_loss(v.loss(task.mb))
        for b in self.numbers:
            units = self.blocks[b].units
            yield Instr(op=Op.WAIT, where=block_name(self.plan, b), reads=self._ready(units))
        yield from self._swaps()

    def _room(self) -> Iterator[Instr]:
        """Not more than two pieces' gradients are whole at a time."""
        if len(self.scattered) >= WHOLE:
            b = self.scattered[-WHOLE]
            newest = self.ready[self.blocks[b].units[0]]  # the one before it may be added to it
            yield Instr(op=Op.WAIT, where=block_name(self.plan, b), reads=(newest,))

    def _scatter(self, b: int, mb: int, *, last: bool) -> Iterator[Instr]:
        units = self.blocks[b].units
        yield from scatter(self.plan, b, mb, before=self.since.get(b))
        self.since[b] = mb
        self.ready |= {u: v.grad_shard(u, mb) for u in units}
        if last and (summed := over_replicas(self.plan, b, mb)):
            yield from summed
            self.ready |= {u: v.gsum(u) for u in units}
        self.scattered.append(b)

    def _swaps(self) -> Iterator[Instr]:
        """Where a stage has a copy on another rank, both end with the sum of both shards."""
        for b in self.numbers:
            s = self.stages.piece(self.blocks[b].units[0]).stage
            other = self.copy_of(s)
            if other is not None:
                yield from self._swap_pieces(block_name(self.plan, b), other, self.blocks[b].units)

    def _finish(self) -> Iterator[Instr]:
        gradients = self._ready(tuple(self.held))
        loss = [] if self.loss is None else [self.loss]
        yield from step.tally([*gradients, *loss], loss, self.plan.tally_axis)
        old = tuple(map(v.shard if self.plan.zero == 3 else v.weight, self.held))
        yield Instr(
            op=Op.O,
            where="weights",
            reads=(*old, *gradients, *([v.TOTAL] if self.plan.clip else [])),
            writes=tuple(map(v.new_shard, self.held)),
            frees=(*old, *gradients),
        )
        if self.plan.zero < 3:
            yield from gather(self.plan, self.numbers)

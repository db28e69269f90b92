"""A pipeline whose replicas share out their state: ZeRO over dp, stage by stage.

    zero=1   a stage's gradient is scattered at its last backward; updated shards are gathered
    zero=2   every microbatch's gradient is scattered when its backward has made it
    zero=3   weights are gathered for each task as well: two gathers and a scatter a microbatch

    pp=2 dp=2 zero=1   compute  ... B stage0 mb3, wait stage0, norm, O weights
                       comm     reduce_scatter stage0 @dp, all_reduce tally, all_gather stage0 @dp

The split of a backward stays: W makes the gradient, so it scatters; what I makes of norms waits for
it. Two copies of a stage exchange their shards, not their gradients. So do the two ends of a
pipeline with a tied table, which is a piece of its own here and so cut alike at both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.data.blocks import blocks, held_blocks
from parallel_core.data.sharded import block_name, gather, over_replicas, scatter
from parallel_core.data.zero2 import WHOLE
from parallel_core.data.zero3 import with_gathers
from parallel_core.pieces import TABLE, uses_table
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
        holds.append((*mine.tokens, *map(before, mine.sharded)))
        keeps.append((*mine.tokens, *map(after, mine.sharded), v.TOTAL))
    return Program(plan.mesh, tuple(ranks), tuple(holds), tuple(keeps), plan.layout)


class _Sharded(Step):
    """One rank's step. `sharded` are the pieces that it updates; `since` is the number of a block's
    newest sum, `scattered` the blocks that were summed, in order; `table` the newest gradient of a
    table that both ends of the pipeline use."""

    def __init__(self, plan: Plan, rank: int) -> None:
        super().__init__(plan, rank)
        self.blocks, self.numbers = blocks(plan), held_blocks(plan, rank)
        self.closes = {self.blocks[b].units[-1]: b for b in self.numbers}
        self.sharded = [u for b in self.numbers for u in self.blocks[b].units]
        self.names = {self.stages.piece(u).name: u for u in self.held}
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
        losses = [t for t in tasks if t.op is Op.F and t.stage == self.lowering.last]
        for task, group in groups_of(self.plan, self.lowering, self.here):
            for plain in group:
                instr = self._with_table(plain)
                makes = instr.op in (Op.B, Op.W)
                if makes and self.plan.zero > 1:
                    yield from self._room()
                yield instr
                if makes:
                    yield from self._sums(instr)
            if losses and task == losses[-1]:
                yield from self._reduce_loss(v.loss(task.mb))
        for b in self.numbers:
            units = self.blocks[b].units
            yield Instr(op=Op.WAIT, where=block_name(self.plan, b), reads=self._ready(units))
        yield from self._swaps()

    def _with_table(self, instr: Instr) -> Instr:
        """An instruction of the first or last piece uses the table as well, and makes its gradient:
        number mb of the lookups', behind them the head's. Until it is summed each adds to the one
        before."""
        u = self.names.get(instr.where)
        if TABLE not in self.sharded or u is None or not uses_table(self.plan, u):
            return instr
        bare = ("w", "grad") if u not in self.sharded else ()  # it holds nothing but the table
        reads, made, frees = (
            [x for x in values if x.name not in bare]
            for values in (instr.reads, instr.writes, instr.frees)
        )
        if instr.op in (Op.F, Op.B, Op.I):
            reads.append(v.weight(TABLE))
        if instr.op in (Op.B, Op.W):
            number = (instr.mb or 0) + (self.plan.microbatches if u else 0)
            if self.plan.zero == 1 and self.table is not None:
                reads.append(self.table)
                frees.append(self.table)
            self.table = v.grad(TABLE, number)
            made.append(self.table)
        return replace(instr, reads=tuple(reads), writes=tuple(made), frees=tuple(frees))

    def _sums(self, instr: Instr) -> Iterator[Instr]:
        """What the gradients of a backward are summed in, if they are complete or nobody waits."""
        for value in instr.writes:
            b = self.closes.get(value.at[0]) if value.name == "grad" else None
            if b is not None:
                last = self._last(value.at[0], instr)
                if last or self.plan.zero > 1:
                    for made in self._scatter(b, value.at[1], last=last):
                        yield replace(made, mb=made.mb if made.mb is None else instr.mb)

    def _last(self, u: int, instr: Instr) -> bool:
        """Whether no later task of this rank adds to the gradient of piece u."""
        uses = {0, self.lowering.last} if u == TABLE else {self._stage(u)}
        makers = (Op.B, Op.W)
        task = [t for t in self.order.ranks[self.here] if t.op in makers and t.stage in uses][-1]
        stage = self._stage(self.names[instr.where])
        return (task.stage, task.mb) == (stage, instr.mb)

    def _room(self) -> Iterator[Instr]:
        """Not more than two pieces' gradients are whole at a time."""
        if len(self.scattered) >= WHOLE:
            b = self.scattered[-WHOLE]
            newest = self.ready[self.blocks[b].units[0]]  # the one before it may be added to it
            yield Instr(op=Op.WAIT, where=block_name(self.plan, b), reads=(newest,))

    def _scatter(self, b: int, number: int, *, last: bool) -> Iterator[Instr]:
        units = self.blocks[b].units
        yield from scatter(self.plan, b, number, before=self.since.get(b))
        self.since[b] = number
        self.ready |= {u: v.grad_shard(u, number) for u in units}
        if last and (summed := over_replicas(self.plan, b, number)):
            yield from summed
            self.ready |= {u: v.gsum(u) for u in units}
        self.scattered.append(b)

    def _swaps(self) -> Iterator[Instr]:
        """Where a stage has a copy on another rank, both end with the sum of both shards."""
        for b in self.numbers:
            units = self.blocks[b].units
            other = self._other_end() if TABLE in units else self.copy_of(self._stage(units[0]))
            if other is not None:
                yield from self._swap_pieces(block_name(self.plan, b), other, units)

    def _stage(self, u: int) -> int:
        return self.stages.piece(u).stage

    def _other_end(self) -> int | None:
        """The other place in the pipeline that holds the table, where one place is not both."""
        ends = {0, self.lowering.last}
        every = enumerate(self.order.held)
        return next((r for r, held in every if ends & {*held} and r != self.here), None)

    def _finish(self) -> Iterator[Instr]:
        gradients = self._ready(tuple(self.sharded))
        loss = [] if self.loss is None else [self.loss]
        yield from step.tally([*gradients, *loss], loss, self.plan.tally_axis)
        old = tuple(map(v.shard if self.plan.zero == 3 else v.weight, self.sharded))
        yield Instr(
            op=Op.O,
            where="weights",
            reads=(*old, *gradients, *([v.TOTAL] if self.plan.clip else [])),
            writes=tuple(map(v.new_shard, self.sharded)),
            frees=(*old, *gradients),
        )
        if self.plan.zero < 3:
            yield from gather(self.plan, self.numbers)

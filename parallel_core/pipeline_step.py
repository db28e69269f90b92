"""A pipeline's training step: its order, lowered, and what the step needs around it.

    after a stage's last backward     its gradient is summed over dp, on the comm lane
    where weights have two copies     their ranks exchange gradients and add: a tied embedding
                                      in the first and last stage, every stage of DualPipe
    at the end                        loss and gradient norm, summed over the stages; O

    p=2 dp=2    compute   ... B stage0 mb1, wait stage0, norm, O weights
                comm      all_reduce stage0 @dp, all_reduce tally @pp

No optimizer waits for the norm, but to clip by it, so no barrier stands at the end of a step. Each
stage reduces at its own last backward: the first to finish does not wait for the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.data.sharded import TABLE_NAME
from parallel_core.pieces import copies_table
from parallel_core.pipeline.lower import Lowering, lane_to
from parallel_core.pipeline.order import Task
from parallel_core.pipeline_pieces import Stages, groups_of
from parallel_core.plan import DPMethod, Plan
from parallel_core.program import Instr, Lane, Message, Op, Program, Value


def pipeline_step(plan: Plan) -> Program:
    """The training step of a plan with a pipeline, synchronous."""
    ranks, holds, keeps = [], [], []
    for rank in range(plan.world_size):
        mine = Step(plan, rank)
        ranks.append(tuple(mine.instrs()))
        table = [v.TABLE] if mine.copied else []
        new = [v.NEW_TABLE] if mine.copied else []
        holds.append((*mine.tokens, *map(v.weight, mine.held), *table))
        keeps.append((*mine.tokens, *map(v.updated, mine.held), *new, v.TOTAL))
    return Program(plan.mesh, tuple(ranks), tuple(holds), tuple(keeps), plan.layout)


def lowering_of(plan: Plan, rank: int) -> Lowering:
    """The plan's order with the messages of `rank`'s own pipeline."""
    group = plan.mesh.group(rank, "pp")

    def to_rank(place: int) -> int:
        return group[place]

    fresh = plan.asynchronous or plan.zero > 1
    apart = plan.model.tied and not plan.zero  # or a piece of its own
    return Lowering(plan.pipeline, peer=to_rank, tied=apart, fresh=fresh)


class Step:
    """One rank's step. `here` is its place in the pipeline, `mine` the stages it holds."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan, self.order = plan, plan.pipeline
        self.here = plan.mesh.coordinate(rank)["pp"]
        self.mine = self.order.held[self.here]
        self.stages = Stages(plan)
        self.lowering = lowering_of(plan, rank)
        self.tokens = self.lowering.tokens(self.here)
        self.copied = copies_table(plan, rank)
        self.shares = plan.model.tied and {0, self.lowering.last} <= set(self.mine)
        self.ready: dict[int, Value] = {}  # piece -> its gradient, complete as far as it goes
        self.table: Value | None = None  # the same of the copied table
        self.loss: Value | None = None

    @property
    def held(self) -> list[int]:
        """The pieces of the rank's stages."""
        return [u for s in self.mine for u in self.stages.of[s]]

    def instrs(self) -> Iterator[Instr]:
        """The step, first instruction to last."""
        left = {task.stage: task for task in self.order.ranks[self.here] if task.op in (Op.B, Op.W)}
        losses = [
            t for t in self.order.ranks[self.here] if t.op is Op.F and t.stage == self.lowering.last
        ]
        for task, group in groups_of(self.plan, self.lowering, self.here):
            yield from group
            if losses and task == losses[-1]:
                yield from self._reduce_loss(v.loss(task.mb))
            if left.get(task.stage) == task:
                yield from self._complete(task)
        if self.plan.dp_method == DPMethod.NAIVE:
            yield from self._reduce_all()
        yield from self._wait()
        yield from self._exchange()
        yield from self._finish()

    def _reduce_loss(self, mine: Value) -> Iterator[Instr]:
        self.loss = mine
        if self.plan.gradient_ranks > 1:
            self.loss = v.TOTAL_LOSS
            yield _summed("loss", "dp", (mine,), (v.TOTAL_LOSS,))

    def _complete(self, task: Task) -> Iterator[Instr]:
        """After the last backward of a stage: its gradient is ready to be summed over ranks."""
        s, done = task.stage, [task.stage]
        self.ready |= {u: v.grad(u, task.mb) for u in self.stages.of[s]}
        if self.plan.model.tied and s == self.lowering.last:
            self.table = v.tie(task.mb)
        if self.shares and s in (0, self.lowering.last):
            if self.table is None or 0 not in self.ready:
                done = [s] if s else []  # the shared table waits for the other of the two
            else:
                yield self._join()
                done = sorted({0, s})
        if self.plan.gradient_ranks > 1 and self.plan.dp_method == DPMethod.BUCKETED:
            for stage in done:
                yield from self._reduce(stage)
            if self.copied and s == self.lowering.last:
                yield self._reduce_table()

    def _join(self) -> Instr:
        """Both uses of a table on one rank, embedding and head, are one gradient."""
        assert self.table is not None
        both, whole = (self.ready[0], self.table), v.grad(0, self.plan.microbatches)
        self.ready[0], self.table = whole, None
        return Instr(op=Op.ADD, where=TABLE_NAME, reads=both, writes=(whole,), frees=both)

    def _reduce(self, s: int) -> Iterator[Instr]:
        for name, axis, together in self.stages.sums(s):
            if axis:
                mine, total = self._ready(together), tuple(map(v.gsum, together))
                self.ready |= dict(zip(together, total, strict=True))
                yield _summed(name, axis, mine, total)

    def _ready(self, together: tuple[int, ...]) -> tuple[Value, ...]:
        return tuple(self.ready[u] for u in together)

    def _reduce_table(self) -> Instr:
        assert self.table is not None
        mine, self.table = self.table, v.TABLE_SUM
        return _summed(TABLE_NAME, "dp", (mine,), (v.TABLE_SUM,))

    def _reduce_all(self) -> Iterator[Instr]:
        """The naive way: after the whole backward, parameter by parameter."""
        if self.plan.gradient_ranks == 1:
            return
        last = next(t for t in reversed(self.order.ranks[self.here]) if t.op in (Op.B, Op.W))
        # the lane is in order: behind the stage that ends last, none starts before the end
        for s in sorted(self.mine, key=lambda s: s != last.stage):
            for instr in self._reduce(s):
                each = tuple(
                    Message(Op.ALL_REDUCE, instr.axis or "dp", v.part(value.at[0], i))
                    for value in instr.writes
                    for i in range(len(self.stages.piece(value.at[0]).specs))
                )
                yield _with(instr, each)
        if self.copied:
            yield self._reduce_table()

    def _wait(self) -> Iterator[Instr]:
        if self.plan.gradient_ranks == 1:
            return
        for s in self.mine:
            for name, axis, together in self.stages.sums(s):
                if axis:
                    yield Instr(op=Op.WAIT, where=name, reads=self._ready(together))

    def _exchange(self) -> Iterator[Instr]:
        """Where weights have a copy on another rank, both end with the sum of both gradients."""
        for s in self.mine:
            other = self.copy_of(s)
            for name, _, together in self.stages.sums(s) if other is not None else ():
                assert other is not None
                yield from self._swap_pieces(name, other, together)
        if not self.plan.model.tied or self.shares:
            return
        first, last = (
            next(r for r, held in enumerate(self.order.held) if s in held)
            for s in (0, self.lowering.last)
        )
        sent, came = (v.TABLE_SENT,), (v.TABLE_CAME,)
        if self.here == last and self.table is not None:
            flow = ((self.table,), sent, came, (v.TABLE_ALL,))
            self.table = v.TABLE_ALL
            yield from self._swap(TABLE_NAME, first, flow)
        elif self.here == first:
            mine, self.ready[0] = self.ready[0], v.gall(0)
            part = (Message(Op.SEND, "p2p", v.TABLE),)
            send, *rest = self._swap(TABLE_NAME, last, ((mine,), sent, came, (v.gall(0),)))
            yield from (_with(send, part), *rest)

    def copy_of(self, s: int) -> int | None:
        """The place in the pipeline where stage s is held as well."""
        every = enumerate(self.order.held)
        return next((r for r, held in every if s in held and r != self.here), None)

    def _swap_pieces(self, name: str, other: int, together: tuple[int, ...]) -> list[Instr]:
        mine, total = self._ready(together), tuple(map(v.gall, together))
        self.ready |= dict(zip(together, total, strict=True))
        marks = tuple(map(v.sent, together)), tuple(map(v.came, together))
        return self._swap(name, other, (mine, *marks, total))

    def _swap(self, where: str, other: int, flow: Swap) -> list[Instr]:
        """Send one's own, take the other's, add: (own, marks that it left, other's, sum)."""
        mine, left, came, total = flow
        peer, p = self.lowering.peer(other), self.order.p
        out, into = (lane_to(op, self.here, other, p) for op in (Op.SEND, Op.RECV))
        every = (*mine, *came, *left)
        return [
            Instr(op=Op.SEND, where=where, lane=out, peer=peer, reads=mine, writes=left),
            Instr(op=Op.RECV, where=where, lane=into, peer=peer, writes=came),
            Instr(op=Op.ADD, where=where, reads=every, writes=total, frees=every),
        ]

    def _finish(self) -> Iterator[Instr]:
        table = [self.table] if self.copied and self.table is not None else []
        whole = [*(self.ready[u] for u in self.held), *table]
        loss = [] if self.loss is None else [self.loss]
        yield from step.tally([*whole, *loss], loss, self.plan.tally_axis)
        old = [*map(v.weight, self.held), *([v.TABLE] if self.copied else [])]
        new = [*map(v.updated, self.held), *([v.NEW_TABLE] if self.copied else [])]
        yield Instr(
            op=Op.O,
            where="weights",
            reads=(*old, *whole, *([v.TOTAL] if self.plan.clip else [])),
            writes=tuple(new),
            frees=(*old, *whole),
        )


Swap = tuple[tuple[Value, ...], tuple[Value, ...], tuple[Value, ...], tuple[Value, ...]]


def _summed(where: str, axis: str, mine: tuple[Value, ...], total: tuple[Value, ...]) -> Instr:
    return Instr(
        op=Op.ALL_REDUCE,
        where=where,
        lane=Lane.COMM,
        axis=axis,
        reads=mine,
        writes=total,
        frees=mine,
    )


def _with(instr: Instr, inner: tuple[Message, ...]) -> Instr:
    return replace(instr, inner=inner)

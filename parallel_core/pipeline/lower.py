"""From an Order to a Program: the messages, what each task reads and writes, and when it is freed.

A schedule says what is computed when; all else follows, and is added here, once for all of them.

    F mb s    act[mb,s-1], weights -> saved[mb,s], act[mb,s]     the last stage: the running loss
    B mb s    saved[mb,s], dact[mb,s] -> dact[mb,s-1], grad[s,mb] (added to the one before it)
    I mb s    saved[mb,s], dact[mb,s] -> dact[mb,s-1], held[mb,s]
    W mb s    held[mb,s] -> grad[s,mb]

What the neighbouring stage needs is sent at once, unless that stage is on the same rank. Messages
of one pair of ranks keep one order on both ends (NCCL has no tags): a RECV stands where its value
is needed, or earlier where the sender sent it earlier. Each neighbour and direction has its lane,
so no message stands behind one of another pair; ranks that are no neighbours share a lane, in one
order for all, in which the tasks can run. An activation is freed as soon as it is sent.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from parallel_core import values as v
from parallel_core.collection import collection_paused
from parallel_core.mesh import Mesh
from parallel_core.pipeline.order import Order, Task, runnable
from parallel_core.program import Instr, Lane, Op, Program, Value

Cell = tuple[Value, int, int]
"""A value that travels, its microbatch, and the stage it comes from."""

FAR = -1
"""Where the messages of all ranks that are no neighbours stand in line together."""


def stage_name(s: int) -> str:
    """How instructions name stage s."""
    return f"stage{s}"


def lower(order: Order, *, blocking: bool = False) -> Program:
    """The order as a program of its own: tasks and messages, gradients left at the end.

    `blocking` puts the messages on the compute lane, in line with the tasks, as code without
    asynchronous sends has them.
    """
    with collection_paused():  # a million instructions hold no cycles
        return _program(order, Lowering(order, blocking=blocking))


def _program(order: Order, lowering: Lowering) -> Program:
    ranks, holds, keeps = [], [], []
    for rank in range(order.p):
        instrs = [instr for _, group in lowering.rank(rank) for instr in group]
        tokens = lowering.tokens(rank)
        weights = [v.weight(s) for s in order.held[rank]]
        ranks.append(tuple(instrs))
        holds.append((*tokens, *weights))
        keeps.append((*tokens, *weights, *lowering.gradients(rank), *lowering.losses(rank)))
    mesh = Mesh((("pp", order.p),))
    return Program(mesh, tuple(ranks), tuple(holds), tuple(keeps), order.name)


@dataclass(frozen=True)
class Weights:
    """Which weights a task reads: `of(task)` names them, given the rank's own stages."""

    of: Callable[[Task], tuple[Value, ...]] = lambda task: (v.weight(task.stage),)


class Lowering:
    """An order with its messages; `rank(r)` gives the instructions of one rank, task by task.

    `peer` turns a pipeline rank into the program's rank number. `tied` makes the last stage's
    backward keep the shared table's gradient apart as `tie[mb]`. `fresh` starts a gradient anew
    at every microbatch (asynchronous updates) instead of adding to the one before.
    """

    def __init__(
        self,
        order: Order,
        *,
        blocking: bool = False,
        peer: Callable[[int], int] = lambda rank: rank,
        tied: bool = False,
        fresh: bool = False,
    ) -> None:
        self.order, self.blocking, self.peer = order, blocking, peer
        self.tied, self.fresh = tied, fresh
        self.last = order.stages - 1
        self.names = [stage_name(s) for s in range(order.stages)]
        self._sent: dict[tuple[int, int], list[tuple[int, Cell]]] = defaultdict(list)
        for rank, task in runnable(order):
            travels = self._travels(task)
            if travels is not None and travels[0] != rank:
                to, cell = travels
                line = rank if self._near(rank, to) else FAR
                self._sent[line, to].append((rank, cell))

    def _near(self, rank: int, other: int) -> bool:
        p = self.order.p
        return (rank + 1 - other) % p == 0 or (rank - 1 - other) % p == 0

    def tokens(self, rank: int) -> list[Value]:
        """The token ids and labels a rank needs: those of its first and last stages' work."""
        ends = {0, self.last}
        return [
            v.ids(mb) for mb in sorted({t.mb for t in self.order.ranks[rank] if t.stage in ends})
        ]

    def gradients(self, rank: int) -> list[Value]:
        """What a rank's backward leaves: the gradient of each of its stages, and a table's."""
        left = {t.stage: t.mb for t in self.order.ranks[rank] if t.op in (Op.B, Op.W)}
        found = [v.grad(s, left[s]) for s in sorted(left)]
        return [*found, v.tie(left[self.last])] if self.tied and self.last in left else found

    def losses(self, rank: int) -> list[Value]:
        """The rank's loss after its last microbatch, if it holds the last stage."""
        mine = [t.mb for t in self.order.ranks[rank] if t.op is Op.F and t.stage == self.last]
        return [v.loss(mine[-1])] if mine else []

    def rank(self, rank: int, weights: Weights | None = None) -> Iterator[tuple[Task, list[Instr]]]:
        """Each task of a rank with its instructions: receives it needs, itself, its send."""
        reads_weights = weights or Weights()
        incoming = {
            source: deque(cells) for (source, to), cells in self._sent.items() if to == rank
        }
        done: dict[tuple[str, int], int] = {}  # (chain, stage) -> the microbatch before
        for task in self.order.ranks[rank]:
            group = self._receives(rank, task, incoming)
            group.append(self._compute(task, reads_weights.of(task), done))
            travels = self._travels(task)
            if travels is not None and travels[0] != rank:
                group.append(self._message(Op.SEND, rank, *travels))
            yield task, group

    def _travels(self, task: Task) -> tuple[int, Cell] | None:
        """Where the output of a task is needed: (rank, value)."""
        op, mb, s = task.op, task.mb, task.stage
        if op is Op.F and s < self.last:
            return self.order.home[mb, s + 1], (v.act(mb, s), mb, s)
        if op in (Op.B, Op.I) and s > 0:
            return self.order.home[mb, s - 1], (v.dact(mb, s - 1), mb, s)
        return None

    def _needs(self, task: Task) -> tuple[int, Value] | None:
        """What a task takes from another stage: (the rank that makes it, value)."""
        op, mb, s = task.op, task.mb, task.stage
        if op is Op.F and s > 0:
            return self.order.home[mb, s - 1], v.act(mb, s - 1)
        if op in (Op.B, Op.I) and s < self.last:
            return self.order.home[mb, s + 1], v.dact(mb, s)
        return None

    def _receives(
        self, rank: int, task: Task, incoming: dict[int, deque[tuple[int, Cell]]]
    ) -> list[Instr]:
        needs = self._needs(task)
        if needs is None or needs[0] == rank:
            return []
        source, value = needs
        queue, group = incoming[source if self._near(rank, source) else FAR], []
        if all(cell[0] != value for _, cell in queue):
            return []  # came with an earlier one
        while True:
            sender, cell = queue.popleft()
            group.append(self._message(Op.RECV, rank, sender, cell))
            if cell[0] == value:
                return group

    def _message(self, op: Op, rank: int, other: int, cell: Cell) -> Instr:
        value, mb, s = cell
        sends = op is Op.SEND
        return Instr(
            op=op,
            where=self.names[s],
            mb=mb,
            lane=Lane.COMPUTE if self.blocking else lane_to(op, rank, other, self.order.p),
            reads=(value,) if sends else (),
            writes=() if sends else (value,),
            frees=(value,) if sends else (),
            peer=self.peer(other),
        )

    def _compute(
        self, task: Task, weights: tuple[Value, ...], done: dict[tuple[str, int], int]
    ) -> Instr:
        match task.op:
            case Op.F:
                reads, writes, frees = self._forward(task.mb, task.stage, done)
            case Op.W:
                reads, writes, frees = [v.held(task.mb, task.stage)], [], []
                frees += reads
            case _:
                reads, writes, frees = self._backward(task.op, task.mb, task.stage)
        if task.op in (Op.B, Op.W):
            self._accumulate(task, reads, writes, frees, done)
        return Instr(
            op=task.op,
            where=self.names[task.stage],
            mb=task.mb,
            reads=(*reads, *weights),
            writes=tuple(writes),
            frees=tuple(frees),
        )

    def _forward(
        self, mb: int, s: int, done: dict[tuple[str, int], int]
    ) -> tuple[list[Value], list[Value], list[Value]]:
        reads = [v.ids(mb) if s == 0 else v.act(mb, s - 1)]
        frees = [v.act(mb, s - 1)] if s else []
        if s < self.last:
            return reads, [v.saved(mb, s), v.act(mb, s)], frees
        before = [v.loss(done["loss", s])] if ("loss", s) in done else []
        done["loss", s] = mb
        labels = [v.ids(mb)] if s else []
        return [*reads, *labels, *before], [v.saved(mb, s), v.loss(mb)], [*frees, *before]

    def _backward(self, op: Op, mb: int, s: int) -> tuple[list[Value], list[Value], list[Value]]:
        reads = [v.saved(mb, s)]
        if s < self.last:
            reads.append(v.dact(mb, s))
        writes = [v.dact(mb, s - 1)] if s else []
        if op is Op.I:
            writes.append(v.held(mb, s))
        return reads, writes, [*reads]

    def _accumulate(
        self,
        task: Task,
        reads: list[Value],
        writes: list[Value],
        frees: list[Value],
        done: dict[tuple[str, int], int],
    ) -> None:
        """The gradient after this microbatch is the one before plus this one's."""
        mb, s = task.mb, task.stage
        before = None if self.fresh else done.get(("grad", s))
        done["grad", s] = mb
        chains = [v.grad(s, mb)]
        old = [] if before is None else [v.grad(s, before)]
        if self.tied and s == self.last:
            chains.append(v.tie(mb))
            old += [] if before is None else [v.tie(before)]
        reads += old
        frees += old
        writes += chains


def lane_to(op: Op, rank: int, other: int, p: int) -> Lane:
    """The lane of a message between two ranks of a pipeline of p."""
    sends = op is Op.SEND
    if other == (rank + 1) % p:
        return Lane.TO_NEXT if sends else Lane.FROM_NEXT
    if other == (rank - 1) % p:
        return Lane.TO_PREV if sends else Lane.FROM_PREV
    return Lane.OUT if sends else Lane.IN

"""What is left of an order, placed greedily: whoever can begin soonest does.

The backward goes before the forward and both before W, so that memory is freed soon and W fills
what would stand idle. It is a suggestion and makes a partial order whole enough to be simulated;
no claim that nothing is faster.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from parallel_core.pipeline.order import Order, Task
from parallel_core.pipeline.partial import Board, Progress, Ranks, moves, progress
from parallel_core.pipeline.schedule import Times
from parallel_core.program import Op

WHOLE, SPLIT = (Op.B, Op.F), (Op.I, Op.F, Op.W)
"""Which ops the rest is placed in, the ones that go first in front."""


class Completed(NamedTuple):
    """A whole order that begins with what was placed; `kept` says whether the cap held."""

    order: Order
    kept: bool


def completed(board: Board, ranks: Ranks, times: Times, *, splits: bool = False) -> Completed:
    """The order that `ranks` begin, gone on with greedily; the rest has I and W if `splits`.

    Raises ProgramError where what is placed cannot run. A board without a cap is filled as if it
    were p, 1F1B's. Where the cap leaves nobody a move, the rest is placed without one.
    """
    progress(board, ranks)
    ops = SPLIT if splits else WHOLE
    sparing = board if board.cap is not None else replace(board, cap=float(board.p))
    found = _Clock(sparing, times, ops).finish(ranks)
    if found is not None:
        return Completed(found, kept=True)
    free = _Clock(replace(board, cap=None), times, ops).finish(ranks)
    assert free is not None  # without a cap somebody can always go on
    return Completed(free, kept=board.cap is None)


class _Clock:
    """When what has run ended, and when each rank is free."""

    def __init__(self, board: Board, times: Times, ops: tuple[Op, ...]) -> None:
        self.board, self.times, self.ops = board, times, ops
        self.going = Progress(board)
        self.free = [0.0] * board.p
        self.ends: dict[tuple[bool, int, int], float] = {}  # (of the backward, mb, stage)
        self.rows: list[list[Task]] = [[] for _ in range(board.p)]

    def finish(self, ranks: Ranks) -> Order | None:
        """The whole order; None where the cap leaves nobody a move."""
        if not self._replay(ranks):
            return None
        todo = {rank: self._next(rank) for rank in range(self.board.p)}
        while best := min((move for move in todo.values() if move is not None), default=None):
            _, _, rank, task = best
            self._run(rank, task)
            todo.update((other, self._next(other)) for other in self._touched(rank, task))
        count = sum(len(row) for row in self.rows)
        halves = sum(task.op is Op.I for row in self.rows for task in row)
        whole = count == 2 * len(self.board.home) + halves
        return Order(tuple(map(tuple, self.rows))) if whole else None

    def _replay(self, ranks: Ranks) -> bool:
        """Run what is placed; False where the cap forbids it."""
        at, moved = [0] * self.board.p, True
        while moved:
            moved = False
            for rank, tasks in enumerate(ranks):
                while at[rank] < len(tasks) and not self.going.why_not(rank, tasks[at[rank]]):
                    self._run(rank, tasks[at[rank]])
                    at[rank] += 1
                    moved = True
        return all(at[rank] == len(tasks) for rank, tasks in enumerate(ranks))

    def _touched(self, rank: int, task: Task) -> set[int]:
        """The ranks whose next move may be another one, now that `task` has run."""
        beside = ((task.mb, task.stage + step) for step in (-1, 1))
        return {rank, *(self.board.home[piece] for piece in beside if piece in self.board.home)}

    def _next(self, rank: int) -> tuple[float, int, int, Task] | None:
        """The move of `rank` that can begin soonest: (when, how eager, rank, task)."""
        ops = (*self.ops, Op.W)  # what was placed as I needs its W
        can = [
            (max(self.free[rank], self._ready(rank, move.task)), ops.index(move.task.op), rank,
             move.task)
            for move in moves(self.going, rank, ops)
            if not move.why
        ]  # fmt: skip
        return min(can, default=None)

    def _ready(self, rank: int, task: Task) -> float:
        """When what it takes from another stage is there."""
        back, step = task.op is not Op.F, -1 if task.op is Op.F else 1
        need = (back, task.mb, task.stage + step)
        if task.op is Op.W or need not in self.ends:
            return 0.0
        away = self.board.home[need[1:]] != rank
        return self.ends[need] + self.times.comm * away

    def _run(self, rank: int, task: Task) -> None:
        begin = max(self.free[rank], self._ready(rank, task))
        end = begin + self.times.whole(rank, task.op) * self.board.share
        self.free[rank] = end
        if task.op is not Op.W:
            self.ends[task.op is not Op.F, task.mb, task.stage] = end
        self.going.run(rank, task)
        self.rows[rank].append(task)

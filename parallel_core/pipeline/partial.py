"""An order on its way: what is placed, what may come next, and why a move cannot be made yet.

A Board says who computes what; a Partial is what each rank has placed of it, first to last. It is
legal when every placed task can run: what it needs is placed too, and no two ranks wait for each
other. So a move is judged by what is there, and its refusal names what is missing.

    rank 0   F0 F1               rank 1 cannot run B1 yet: it has not run F1
    rank 1   F0                  rank 0 cannot run B0 yet: stage 1 has not run B0, and nobody
                                 has placed it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from parallel_core.pipeline.order import COMPUTES, Order, Task
from parallel_core.program import Op, ProgramError

Ranks = tuple[tuple[Task, ...], ...]
Piece = tuple[int, int]
"""(microbatch, stage): what one microbatch does on one stage."""


@dataclass(frozen=True)
class Board:
    """Who computes what: `home[mb, stage]` is a rank; with `cap`, how much a rank may hold.

    The cap counts microbatches over all stages of a rank, from their F to their B (or W).
    """

    home: Mapping[Piece, int]
    p: int
    cap: float | None = None

    @classmethod
    def of(cls, order: Order, cap: float | None = None) -> Board:
        """The board on which a whole order stands."""
        return cls(order.home, order.p, cap)

    @cached_property
    def m(self) -> int:
        """How many microbatches go through."""
        return 1 + max(mb for mb, _ in self.home)

    @cached_property
    def stages(self) -> int:
        """How many stages the model is cut into."""
        return 1 + max(stage for _, stage in self.home)

    @cached_property
    def share(self) -> float:
        """What one microbatch on one stage counts of a microbatch on a whole rank."""
        return self.p / self.stages

    @cached_property
    def held(self) -> tuple[tuple[int, ...], ...]:
        """Per rank the stages it computes, ascending."""
        return tuple(
            tuple(sorted({stage for (_, stage), home in self.home.items() if home == rank}))
            for rank in range(self.p)
        )

    @cached_property
    def plain(self) -> bool:
        """Whether each rank has just its own stage, so that cells need not name it."""
        return all(stages == (rank,) for rank, stages in enumerate(self.held))

    def say(self, task: Task) -> str:
        """The task as the reader writes it."""
        return f"{task.op.value}{task.mb}" if self.plain else str(task)

    @cached_property
    def passing(self) -> Mapping[tuple[int, int], list[int]]:
        """(rank, stage) -> the microbatches that pass there, ascending."""
        found: dict[tuple[int, int], list[int]] = {}
        for (mb, stage), rank in sorted(self.home.items()):
            found.setdefault((rank, stage), []).append(mb)
        return found

    def placement_of(self, order: Order) -> bool:
        """Whether `order` puts the same work on the same ranks."""
        return self.home == order.home


_INSTEAD = {Op.B: (Op.I, Op.W), Op.I: (Op.B,)}
"""What cannot be run any more once the other has."""


class Progress:
    """What has run so far, and what each rank holds; `why_not` judges the next task."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.done: set[Task] = set()
        self.holds = [0.0] * board.p
        self.left = {
            (op, rank, stage): [Task(op, mb, stage) for mb in passing]
            for op in COMPUTES
            for (rank, stage), passing in board.passing.items()
        }

    def run(self, rank: int, task: Task) -> None:
        """`task` has run on `rank`."""
        self.done.add(task)
        for op in (task.op, *_INSTEAD.get(task.op, ())):
            row = self.left[op, rank, task.stage]
            row[:] = [other for other in row if other.mb != task.mb]
        if task.op is Op.F:
            self.holds[rank] += self.board.share
        elif task.op in (Op.B, Op.W):
            self.holds[rank] -= self.board.share

    def has(self, op: Op, mb: int, stage: int) -> bool:
        """Whether it has run; asked for B, an I does as well."""
        if op is Op.B and Task(Op.I, mb, stage) in self.done:
            return True
        return Task(op, mb, stage) in self.done

    def why_not(self, rank: int, task: Task) -> str:
        """Why `rank` cannot run `task` now, in one sentence; "" if it can."""
        reason = self._off_board(rank, task) or self._repeated(task)
        return self._cannot(rank, task, reason) if reason else self.blocked(rank, task)

    def blocked(self, rank: int, task: Task) -> str:
        """The same for a task that is known to be `left` on that rank."""
        reason = self._missing(task)
        return self._cannot(rank, task, reason) if reason else self._over_cap(rank, task)

    def _cannot(self, rank: int, task: Task, reason: str) -> str:
        return f"rank {rank} cannot run {self.board.say(task)}{reason}"

    def _off_board(self, rank: int, task: Task) -> str:
        home = self.board.home.get((task.mb, task.stage))
        if task.op not in COMPUTES or home is None:
            return (
                f": there are microbatches 0 to {self.board.m - 1} and stages 0 to"
                f" {self.board.stages - 1}"
            )
        if home != rank:
            return f": stage {task.stage} of microbatch {task.mb} is rank {home}'s"
        return ""

    def _repeated(self, task: Task) -> str:
        say, halves = self.board.say, (Op.I, Op.W)
        if task in self.done:
            return f": {say(task)} is placed already"
        whole = Task(Op.B, task.mb, task.stage)
        if task.op in halves and whole in self.done:
            return f": {say(whole)}, which is I and W in one, is placed already"
        half = Task(Op.I, task.mb, task.stage)
        if task.op is Op.B and half in self.done:
            rest = say(Task(Op.W, task.mb, task.stage))
            return f": {say(half)} is placed already, so {rest} is what is left of it"
        return ""

    def _missing(self, task: Task) -> str:
        """What it needs and what has not run: of its own stage first, then of the next one."""
        mb, stage, last = task.mb, task.stage, self.board.stages - 1
        own = Op.I if task.op is Op.W else Op.F
        if task.op is not Op.F and not self.has(own, mb, stage):
            return f" yet: it has not run {self.board.say(Task(own, mb, stage))}"
        if task.op is Op.F and stage > 0 and not self.has(Op.F, mb, stage - 1):
            return self._elsewhere(Task(Op.F, mb, stage - 1))
        if task.op in (Op.B, Op.I) and stage < last and not self.has(Op.B, mb, stage + 1):
            return self._elsewhere(Task(Op.B, mb, stage + 1))
        return ""

    def _elsewhere(self, need: Task) -> str:
        name = f"{need.op.value}{need.mb}"
        return f" yet: stage {need.stage} has not run {name}, and nobody has placed it"

    def _over_cap(self, rank: int, task: Task) -> str:
        cap, board = self.board.cap, self.board
        if cap is None or task.op is not Op.F or self.holds[rank] + board.share <= cap + 1e-9:
            return ""
        return (
            f"rank {rank} cannot run {board.say(task)} yet: it holds {self.holds[rank]:g} of the"
            f" {cap:g} microbatches its memory takes; run a B or W first"
        )


def progress(board: Board, ranks: Ranks) -> Progress:
    """Everything placed has run; raises ProgramError with one sentence where it cannot."""
    if len(ranks) != board.p:
        raise ProgramError(
            f"the order has {len(ranks)} lines for {board.p} ranks: write a line for each, an"
            " empty one as `rank 2:`"
        )
    going, at = Progress(board), [0] * board.p
    moved = True
    while moved:
        moved = False
        for rank, tasks in enumerate(ranks):
            while at[rank] < len(tasks) and not going.why_not(rank, tasks[at[rank]]):
                going.run(rank, tasks[at[rank]])
                at[rank] += 1
                moved = True
    stuck = {r: tasks[at[r]] for r, tasks in enumerate(ranks) if at[r] < len(tasks)}
    if stuck:
        raise ProgramError(_stuck(going, stuck, ranks))
    return going


def _stuck(going: Progress, stuck: Mapping[int, Task], ranks: Ranks) -> str:
    """The sentence of a rank that waits for what nobody placed; else of two that wait in turn."""
    where = {task: rank for rank, tasks in enumerate(ranks) for task in tasks}
    waits = []
    for rank, task in stuck.items():
        sentence = going.why_not(rank, task)
        need = next((n for n in _needs(task) if n in where), None)
        if need is None or not sentence.endswith("nobody has placed it"):
            return sentence
        waits.append((rank, task, need))
    rank, task, need = waits[0]
    owner, say = where[need], going.board.say
    whose = "its own" if owner == rank else f"rank {owner}'s"
    return (
        f"rank {rank} waits at {say(task)} for {whose} {say(need)}, which comes only after"
        f" {say(stuck[owner])}, and that waits in turn: on rank {owner} move {say(need)} up or"
        f" {say(stuck[owner])} down"
    )


def _needs(task: Task) -> tuple[Task, ...]:
    """What `task` takes from another stage: one of these."""
    if task.op is Op.F:
        return (Task(Op.F, task.mb, task.stage - 1),)
    return tuple(Task(op, task.mb, task.stage + 1) for op in (Op.B, Op.I))


@dataclass(frozen=True)
class Move:
    """A task that a rank could place next; `why` says why it cannot yet, "" if it can."""

    task: Task
    why: str = ""


def moves(going: Progress, rank: int, ops: Sequence[Op] = COMPUTES) -> list[Move]:
    """Per op and stage of `rank` the next task: the first that can run, else the first not run."""
    found = [_move(going, rank, op, stage) for op in ops for stage in going.board.held[rank]]
    return [move for move in found if move is not None]


def _move(going: Progress, rank: int, op: Op, stage: int) -> Move | None:
    first = None
    for task in going.left[op, rank, stage]:
        move = Move(task, going.blocked(rank, task))
        if not move.why:
            return move
        first = first or move
    return first


def missing(going: Progress) -> int:
    """Microbatches on stages whose forward or backward is not complete."""
    done = going.done
    return sum(
        Task(Op.B, mb, stage) not in done and Task(Op.W, mb, stage) not in done
        for mb, stage in going.board.home
    )


def placed(board: Board, order: Sequence[Sequence[Task]]) -> Ranks:
    """The tasks of `order` as a Partial has them, an empty line for every rank without."""
    ranks = tuple(tuple(tasks) for tasks in order)
    return ranks + ((),) * (board.p - len(ranks))

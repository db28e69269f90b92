"""An Order: which rank computes what, and when. No messages, no buffers: `lower` adds them.

Nouns. A *stage* is a run of the model's layers, numbered along the forward; a *task* is F, B, I or
W of one microbatch on one stage; a rank's tasks run one after another. Who holds which stage is
read off the tasks: several stages a rank is interleaving, a stage on two ranks is DualPipe's
second copy of the weights.

    p=3 m=4    rank 0   F0 F1 F2 B0 F3 B1 B2 B3
               rank 1   F0 F1 B0 F2 B1 F3 B2 B3
               rank 2   F0 B0 F1 B1 F2 B2 F3 B3

A cell is the op and the microbatch, after the number of the stage where a rank has several: `2F0`
is the forward of microbatch 0 on stage 2 (torch.distributed.pipelining writes the same). I is the
half of the backward that makes the input's gradient, W the half that makes the weights', B both.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from parallel_core.program import Op, ProgramError

COMPUTES = (Op.F, Op.B, Op.I, Op.W)
"""What a task may be."""

WIDE = 40
"""Characters of a wrong cell that a sentence repeats."""

_CELL = re.compile(r"([0-9]{0,6})([FBIWfbiw])([0-9]{1,6})")


@dataclass(frozen=True, slots=True, order=True)
class Task:
    """One microbatch through one stage: forward, whole backward, or a half of it."""

    op: Op
    mb: int
    stage: int

    def __str__(self) -> str:
        return f"{self.stage}{self.op.value}{self.mb}"

    @classmethod
    def parse(cls, cell: str, rank: int) -> Task:
        """The task in a cell of that rank's line; a cell without a stage means the rank's own.

        Raises ProgramError for any other text.

        >>> print(Task.parse("F1", rank=2), Task.parse("0B3", rank=2))
        2F1 0B3
        """
        match = _CELL.fullmatch(cell)
        if match is None:
            raise ProgramError(
                f"'{printable(cell)}' is no task: write F0 (forward of microbatch 0), B0, I0 or W0,"
                " with the stage in front where a rank has several, as 2F0"
            )
        stage, op, mb = match.groups()
        return cls(Op(op.upper()), int(mb), int(stage) if stage else rank)


def printable(cell: str) -> str:
    """What of a cell a sentence repeats: one line, short, a `?` for what cannot be printed."""
    cell = "".join(letter if letter.isprintable() else "?" for letter in " ".join(cell.split()))
    return cell if len(cell) <= WIDE else f"{cell[:WIDE]}..."


@dataclass(frozen=True)
class Order:
    """Per rank its tasks, first to last."""

    ranks: tuple[tuple[Task, ...], ...]
    name: str = ""

    def __iter__(self) -> Iterator[tuple[int, Task]]:
        """Every (rank, task), rank by rank."""
        for rank, tasks in enumerate(self.ranks):
            for task in tasks:
                yield rank, task

    @property
    def p(self) -> int:
        """How many ranks the pipeline has."""
        return len(self.ranks)

    @cached_property
    def m(self) -> int:
        """How many microbatches go through: one more than the highest number."""
        return 1 + max((task.mb for _, task in self), default=-1)

    @cached_property
    def stages(self) -> int:
        """How many stages the model is cut into: one more than the highest number."""
        return 1 + max((task.stage for _, task in self), default=-1)

    @cached_property
    def held(self) -> tuple[tuple[int, ...], ...]:
        """Per rank the stages it computes, ascending."""
        return tuple(tuple(sorted({task.stage for task in tasks})) for tasks in self.ranks)

    @cached_property
    def home(self) -> dict[tuple[int, int], int]:
        """(microbatch, stage) -> the rank that computes its forward."""
        return {(task.mb, task.stage): rank for rank, task in self if task.op is Op.F}

    @cached_property
    def chunks(self) -> int:
        """Stages on the fullest rank, v."""
        return max(map(len, self.held), default=0)

    @cached_property
    def in_flight(self) -> tuple[int, ...]:
        """Per rank the most tasks whose F has run and whose W (or whole B) has not."""
        steps = {Op.F: 1, Op.B: -1, Op.W: -1}
        rows = (accumulate(steps.get(task.op, 0) for task in tasks) for tasks in self.ranks)
        return tuple(max(row, default=0) for row in rows)

    @cached_property
    def splits(self) -> bool:
        """Whether some backward is cut into I and W."""
        return any(task.op is Op.I for _, task in self)

    def __str__(self) -> str:
        """A line a rank; stages are written where some rank has several."""
        return "\n".join(" ".join(self.cells(rank)) for rank in range(self.p)) + "\n"

    def cells(self, rank: int) -> list[str]:
        """The tasks of a rank as text; `Order.parse` reads the lines back."""
        plain = self.chunks == 1 and all(held in ((), (r,)) for r, held in enumerate(self.held))
        return [str(t).removeprefix(str(t.stage)) if plain else str(t) for t in self.ranks[rank]]

    @classmethod
    def parse(cls, text: str, name: str = "") -> Order:
        """The Order in `text`: a line a rank, cells between blanks or commas, `#` starts a comment.

        Where a cell names no stage, it is the rank's own number. Empty cells (an idle beat) are
        skipped. Raises ProgramError naming line and cell.
        """
        lines = [line.split("#")[0] for line in text.splitlines()]
        ranks = [line for line in lines if line.strip(" \t,")]
        return cls(tuple(tuple(_tasks(line, rank)) for rank, line in enumerate(ranks)), name)


def _tasks(line: str, rank: int) -> Iterator[Task]:
    body = re.sub(r"^\s*rank\s*\d+\s*:?", "", line)
    for cell in re.split(r"[\s,]+", body.strip(" \t,")):
        try:
            yield Task.parse(cell, rank)
        except ProgramError as error:
            raise ProgramError(f"rank {rank}: {error}") from None


def runnable(order: Order) -> Iterator[tuple[int, Task]]:
    """Every (rank, task) once what it needs has run; a rank that gets stuck ends early.

    F of a stage needs F of the stage before, B and I need B or I of the stage behind; W nothing.
    """
    at = [0] * order.p
    done: set[tuple[bool, int, int]] = set()  # (of the backward, microbatch, stage)
    waiting: dict[tuple[bool, int, int], list[int]] = defaultdict(list)
    moving = list(reversed(range(order.p)))
    while moving:
        rank = moving.pop()
        while at[rank] < len(order.ranks[rank]):
            task = order.ranks[rank][at[rank]]
            if task.op is not Op.W:
                back = task.op is not Op.F
                stage = task.stage + (1 if back else -1)
                needs = (back, task.mb, stage)
                if 0 <= stage < order.stages and needs not in done:
                    waiting[needs].append(rank)
                    break
                piece = (back, task.mb, task.stage)
                done.add(piece)
                moving += waiting.pop(piece, ())
            at[rank] += 1
            yield rank, task


def tasks(op: Op, mbs: Sequence[int], stage: int) -> list[Task]:
    """The same op of several microbatches on one stage, in the order given."""
    return [Task(op, mb, stage) for mb in mbs]

"""The order a reader builds: its states, the moves that lead from one to the next, its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parallel_core.pipeline import reading
from parallel_core.pipeline.completion import completed
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.order import COMPUTES, Order
from parallel_core.pipeline.partial import Board, Ranks, missing, moves, placed, progress
from parallel_core.pipeline.schedule import Times
from parallel_core.program import Op, ProgramError

MOST_STATES = 2000


@dataclass
class Draft:
    """What is placed now and was before; `says` is the answer to the last move.

    The board's cap may change under it; what was placed stays and is judged anew.
    """

    board: Board
    splits: bool = False  # what a greedy rest is placed in
    states: list[Ranks] = field(default_factory=list)
    at: int = 0
    says: str = ""
    refused: bool = False
    revision: int = 0

    def __post_init__(self) -> None:
        self.states = self.states or [((),) * self.board.p]

    @property
    def ranks(self) -> Ranks:
        """What is placed."""
        return self.states[self.at]

    @property
    def order(self) -> Order | None:
        """The whole order; None while something is missing or out of place."""
        order = Order(self.ranks, "own")
        try:
            legal(order)
        except ProgramError:
            return None
        return order

    def apply(self, move: Mapping[str, Any], times: Times) -> None:
        """One move of the editor; a refusal changes nothing but `says`."""
        self.revision += 1
        self.refused, self.says = False, ""
        try:
            match move.get("do"):
                case "place":
                    self._place(move)
                case "move":
                    self._reorder(move)
                case "undo" | "redo" as way:
                    self._step(-1 if way == "undo" else 1)
                case "finish":
                    rest = completed(self.board, self.ranks, times, splits=self.splits)
                    self.put(rest.order.ranks)
                    if not rest.kept:
                        self.says = "within the cap nobody could go on, so the rest breaks it"
                case "clear":
                    self.put(((),) * self.board.p)
        except (ProgramError, LookupError, TypeError, ValueError) as error:
            known = isinstance(error, ProgramError)
            self.refused, self.says = True, str(error) if known else "that is no move"

    def put(self, ranks: Ranks) -> None:
        """The next state, if it can run (ProgramError if not); what was undone is forgotten."""
        left = missing(progress(self.board, ranks))
        if ranks != self.ranks:
            self.states = [*self.states[: self.at + 1], ranks][-MOST_STATES:]
            self.at = len(self.states) - 1
        if not left:
            self.says = "nothing is missing: the schedule is legal"

    def _place(self, move: Mapping[str, Any]) -> None:
        rank, op, stage = int(move["rank"]), Op(move["op"]), move.get("stage")
        if not 0 <= rank < self.board.p or op not in COMPUTES:
            raise ValueError
        found = moves(progress(self.board, self.ranks), rank, (op,))
        found = [m for m in found if stage is None or m.task.stage == stage]
        if not found:
            raise ProgramError(f"rank {rank} has no {op} left to place")
        best = next((m for m in found if not m.why), found[0])
        if best.why:
            raise ProgramError(best.why)
        self.says = f"rank {rank} runs {self.board.say(best.task)}"
        rows = list(self.ranks)
        rows[rank] = (*rows[rank], best.task)
        self.put(tuple(rows))

    def _reorder(self, move: Mapping[str, Any]) -> None:
        rank, from_, to = (int(move[key]) for key in ("rank", "from", "to"))
        if rank < 0 or from_ < 0 or to < 0:
            raise ValueError
        row = list(self.ranks[rank])
        task = row.pop(from_)
        row.insert(to, task)
        rows = list(self.ranks)
        rows[rank] = tuple(row)
        self.says = f"rank {rank} runs {self.board.say(task)} as number {to + 1}"
        self.put(tuple(rows))

    def _step(self, by: int) -> None:
        if not 0 <= self.at + by < len(self.states):
            raise ProgramError(f"there is nothing to {'undo' if by < 0 else 'redo'}")
        self.at += by
        self.says = f"{sum(map(len, self.ranks))} tasks are placed"


def read(text: str, board: Board) -> tuple[Board, Ranks]:
    """The order in `text` and its board: its own if it is whole and legal, else `board`.

    Raises ProgramError, with one sentence, for what is neither whole nor a beginning.
    """
    order = reading.read(text)
    try:
        legal(order)
    except ProgramError as error:
        ranks = placed(board, order.ranks)
        try:
            progress(board, ranks)
        except ProgramError:
            if _everything(order):
                raise error from None
            raise
        return board, ranks
    return Board.of(order, board.cap), order.ranks


def _everything(order: Order) -> bool:
    """Whether every microbatch has an F and a backward on every stage: then it is no beginning."""
    done = {(t.op is Op.F, t.mb, t.stage) for _, t in order if t.op is not Op.W}
    return len(done) == 2 * order.m * order.stages > 0


def text_of(board: Board, ranks: Ranks) -> str:
    """A line a rank, as `read` takes it back."""
    lines = (" ".join(board.say(task) for task in tasks) for tasks in ranks)
    return "\n".join(f"rank {rank}: {line}".rstrip() for rank, line in enumerate(lines))


def compact(board: Board, ranks: Ranks) -> str:
    """The same for a URL: cells between dots, ranks between underlines."""
    return "_".join(".".join(board.say(task) for task in tasks) for tasks in ranks)


def expanded(text: str) -> str:
    """What `compact` made, as `read` takes it."""
    rows = text.split("_")
    return "\n".join(f"rank {rank}: {row.replace('.', ' ')}" for rank, row in enumerate(rows))


def splits(ranks: Ranks) -> bool:
    """Whether what is placed cuts some backward in halves."""
    return any(task.op in (Op.I, Op.W) for tasks in ranks for task in tasks)

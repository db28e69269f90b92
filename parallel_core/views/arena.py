"""A partial order and its simulated trace -> the editor of the pipeline arena: its payload.

What is placed is drawn as simulated, since what comes later on a rank cannot move it. Behind it
stands, as an outline, the greedy rest (pipeline/completion.py), simulated with it. A cell carries
why it did not begin sooner, so that pointing at it tells the cause.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

from parallel_core import places
from parallel_core.analysis.critical_path import critical_path
from parallel_core.pipeline.order import Task
from parallel_core.pipeline.partial import Board, Progress, Ranks, missing, moves, progress
from parallel_core.program import Op
from parallel_core.trace import Span, Trace
from parallel_core.views import palette, player

VERSION = 1
NANO = 1e9
_TASKS = ("F", "B", "I", "W")


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """What a reader has placed, and what it looks like.

    `trace` is the simulated program of `ranks` and the rest after them (one beat a second);
    `par` the best makespan known for this board and the name of the schedule that has it; `says`
    the answer to the last move, `refused` whether it was a refusal; `revision` counts the states.
    """

    board: Board
    ranks: Ranks
    trace: Trace
    comm: float = 0.0
    par: tuple[float, str] | None = None
    says: str = ""
    refused: bool = False
    revision: int = 0
    can_undo: bool = False
    can_redo: bool = False
    run: str = "arena"


def payload(sketch: Sketch) -> dict[str, Any]:
    """Everything the editor draws, ready for JSON; times are beats."""
    board, going = sketch.board, progress(sketch.board, sketch.ranks)
    rows = [_tasks(row) for row in sketch.trace.by_rank]
    left = missing(going)
    on_path = _path(sketch.trace)
    told = _Told(sketch, rows)
    return {
        "version": VERSION,
        "run": sketch.run,
        "revision": sketch.revision,
        "palette": palette.as_data(),
        "kind": sketch.trace.kind.value,
        "badge": sketch.trace.provenance.badge,
        "plain": board.plain,
        "end": sketch.trace.makespan / NANO,
        "makespan": told.makespan,
        "missing": left,
        "pieces": len(board.home),
        "par": None if sketch.par is None else [round(sketch.par[0], 9), sketch.par[1]],
        "cap": board.cap,
        "says": sketch.says,
        "refused": sketch.refused,
        "undo": sketch.can_undo,
        "redo": sketch.can_redo,
        "account": account(sketch),
        "ranks": [
            {
                "stages": list(board.held[rank]),
                "cells": told.cells(rank, on_path),
                "ghosts": told.ghosts(rank),
                "holds": told.holds(rank),
                "moves": _moves(going, rank),
            }
            for rank in range(board.p)
        ],
    }


def _tasks(row: Sequence[Span]) -> list[Span]:
    return [span for span in row if span.op in _TASKS]


def _path(trace: Trace) -> set[int]:
    """The spans of the critical path."""
    return {id(piece.span) for piece in critical_path(trace).pieces if piece.span is not None}


def _moves(going: Progress, rank: int) -> list[list[Any]]:
    """Rows of: op, stage, label, why not (empty where it can)."""
    say = going.board.say
    return [[m.task.op.value, m.task.stage, say(m.task), m.why] for m in moves(going, rank)]


class _Told:
    """The placed part of a trace in numbers and words."""

    def __init__(self, sketch: Sketch, rows: Sequence[Sequence[Span]]) -> None:
        self.sketch, self.rows = sketch, rows
        self.spans = {
            task: span
            for tasks, row in zip(sketch.ranks, rows, strict=True)
            for task, span in zip(tasks, row, strict=False)
        }

    @property
    def makespan(self) -> float:
        """The last end of what is placed."""
        return max((span.t_done for span in self.spans.values()), default=0) / NANO

    def cells(self, rank: int, on_path: set[int]) -> list[list[Any]]:
        """Rows of: op, mb, stage, label, begin, end, on the critical path, why not sooner."""
        found, before = [], 0
        for task in self.sketch.ranks[rank]:
            span = self.spans[task]
            words = [self.sketch.board.say(task), *_beats(span)]
            waited = self.cause(rank, task, before)
            named = [task.op.value, task.mb, task.stage]
            found.append([*named, *words, int(id(span) in on_path), waited])
            before = span.t_done
        return found

    def ghosts(self, rank: int) -> list[list[Any]]:
        """The rest: op, mb, label, begin, end."""
        row = self.rows[rank][len(self.sketch.ranks[rank]) :]
        return [[s.op, s.mb, self.sketch.board.say(_task(s)), *_beats(s)] for s in row]

    def holds(self, rank: int) -> list[list[float]]:
        """[when, microbatches held from then on] of what is placed."""
        share = self.sketch.board.share
        steps = {Op.F: share, Op.B: -share, Op.W: -share}
        tasks = [task for task in self.sketch.ranks[rank] if task.op in steps]
        sums = accumulate(steps[task.op] for task in tasks)
        when = [
            self.spans[t].t_start if t.op is Op.F else self.spans[t].t_done for t in tasks
        ]  # an activation is there once its F begins, and until its B or W is over
        return [[at / NANO, round(held, 9)] for at, held in zip(when, sums, strict=True)]

    def cause(self, rank: int, task: Task, before: int) -> str:
        """Why `task` did not begin when the rank was free, at `before` (ns); "" where it did."""
        span, comm = self.spans[task], self.sketch.comm
        gap = (span.t_start - before) / NANO
        if gap <= 1e-9:
            return ""
        need = self._need(task)
        if need is None:
            return f"stands {gap:g} beats before it"
        owner = self.sketch.board.home[need.mb, need.stage]
        ended = self.spans[need].t_done / NANO
        wire = f", and {comm:g} on the wire" if comm and owner != rank else ""
        say = self.sketch.board.say
        return f"waits {gap:g} for {say(need)} of rank {owner}, which ended at {ended:g}{wire}"

    def _need(self, task: Task) -> Task | None:
        """What it takes from another stage."""
        step = -1 if task.op is Op.F else 1
        ops = {Op.F: (Op.F,), Op.W: ()}.get(task.op, (Op.B, Op.I))
        found = (Task(op, task.mb, task.stage + step) for op in ops)
        return next((need for need in found if need in self.spans), None)


def _beats(span: Span) -> list[float]:
    return [round(span.t_start / NANO, 9), round(span.t_done / NANO, 9)]


def _task(span: Span) -> Task:
    assert span.mb is not None
    return Task(Op(span.op), span.mb, int(span.where.removeprefix("stage")))


def account(sketch: Sketch) -> str:
    """The state in words: a line a rank, then how long, how full, what is missing."""
    rows = [_tasks(row) for row in sketch.trace.by_rank]
    told, going = _Told(sketch, rows), progress(sketch.board, sketch.ranks)
    lines = []
    for rank, tasks in enumerate(sketch.ranks):
        cells = " ".join(sketch.board.say(task) for task in tasks) or "nothing yet"
        most = max((held for _, held in told.holds(rank)), default=0)
        lines.append(f"Rank {rank}: {cells}; at most {most:g} microbatches in memory.")
    left = missing(going)
    lines.append(f"What is placed takes {told.makespan:g} beats.")
    if left:
        whole = sketch.trace.makespan / NANO
        lines.append(
            f"Of {len(sketch.board.home)} pieces (a microbatch on a stage) {left} are not whole;"
            f" with the rest placed greedily it would take {whole:g}."
        )
    if sketch.par is not None:
        lines.append(par_words(sketch.par))
    return "\n".join(lines)


def par_words(par: tuple[float, str]) -> str:
    """What par is, for a reader who plays no golf."""
    return f"Par, the shortest of the table on this board, is {par[0]:g} beats, by {par[1]}."


@lru_cache(maxsize=1)
def source() -> str:
    """The editor's JavaScript: what it shares of the player's sections, itself, the hosts."""
    parts = re.split(r"^// -{10,} (?=\d+ )", player.source(), flags=re.MULTILINE)
    sections = {int(part.split(maxsplit=1)[0]): part for part in parts[1:]}
    own = (places.assets() / "arena.js").read_text(encoding="utf-8")
    shared = [f"// {sections[number]}" for number in (1, 5, 7, 10)]
    return "\n".join([*shared, own, f"// {sections[12]}"])

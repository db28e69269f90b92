"""A simulated pipeline as rows of characters: a row a rank, a column a slice of time.

    rank 0 |F0 F1 F2 F3 .........B0--- F4 ...B1--- F5
    rank 1 |...F0 F1 F2 .. .. B0--- F3 B1--- F4 B2---

Where there is room every cell names its microbatch, and its stage where ranks have several; in
less room only the letter is left, and then not every task has a column: the last line says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.text import Text

from parallel_core.trace import Span, Trace
from parallel_core.views.palette import PHASES

TASKS = frozenset("FBIW")
IDLE = "."
COLOURS = {op: f"{PHASES[op].light_ink} on {PHASES[op].light}" for op in TASKS}


class Cell(NamedTuple):
    """A task as it is drawn: its first column, the one after its last, its op and its name."""

    start: int
    end: int
    op: str
    name: str


def picture(
    trace: Trace,
    width: int,
    *,
    until: int | None = None,
    say: Callable[[float], str] = lambda ns: f"{ns / 1e9:g}",
) -> Text:
    """The tasks of `trace` in at most `width` columns, and an axis of time below them.

    Two traces compare on one axis if both are drawn `until` the same nanosecond after their first
    task; `say` writes that time. Without it the axis ends with the last task.
    """
    rows = [[span for span in row if span.op in TASKS] for row in trace.by_rank]
    start, last = tasks_from_to(trace)
    end = max(last - start if until is None else until, 1)
    shortest = min((s.duration for row in rows for s in row if s.duration), default=1)
    beats = max(end / shortest, 1.0)
    head = len(f"rank {len(rows) - 1} |")
    room = max(width - head, 1)
    names = _names(rows, room / beats)
    each = min(max(map(len, names.values()), default=1) + 1, int(room / beats))
    even = each and until is None  # a beat takes whole columns, if it can
    columns = round(each * beats) if even else room

    def column(ns: int) -> int:
        return min(round((ns - start) * columns / end), columns)

    text = Text(no_wrap=True, overflow="crop")
    hidden = 0
    for rank, row in enumerate(rows):
        text.append(f"rank {rank}".ljust(head - 1) + "|")
        cells = [
            Cell(column(span.t_start), column(span.t_done), span.op, names[id(span)])
            for span in row
        ]
        hidden += _row(text, cells, columns)
        text.append("\n")
    text.append(" " * head + "0" + say(end).rjust(columns - 1), style="dim")
    if hidden:
        text.append(f"\nno column left for {hidden} of {len(names)} tasks", style="dim")
    return text


def tasks_from_to(trace: Trace) -> tuple[int, int]:
    """When the first task of a trace starts, and when the last one ends; nanoseconds."""
    spans = [span for span in trace.spans if span.op in TASKS]
    first = min((span.t_start for span in spans), default=0)
    return first, max((span.t_done for span in spans), default=first)


def _names(rows: Sequence[Sequence[Span]], room: float) -> dict[int, str]:
    """What the cell of each span (by its id) says, if there is `room` for it.

    A stage in front could be taken for the number of the cell before: only where blanks part them.
    """
    spans = [span for row in rows for span in row]
    short = {id(span): f"{span.op}{span.mb}" for span in spans}
    if all(len({span.where for span in row}) < 2 for row in rows):
        return short
    long = {id(span): span.where.removeprefix("stage") + short[id(span)] for span in spans}
    return long if max(map(len, long.values())) < room else short


def _row(text: Text, cells: Sequence[Cell], columns: int) -> int:
    """One rank, dots between its cells; how many found no column."""
    at = hidden = 0
    for start, end, op, name in cells:
        first = max(start, at)
        room = end - first
        if room < 1:
            hidden += 1
            continue
        text.append(IDLE * (first - at), style="dim")
        body = (name if len(name) <= room else op).ljust(room - 1, "-")
        text.append(body, style=COLOURS[op])
        text.append(" " * (room - len(body)))
        at = end
    text.append(IDLE * (columns - at), style="dim")
    return hidden

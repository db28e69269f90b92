"""The messages inside one layer's task, rank by rank, as a run stamped them.

    r0   F  [==============]        the task
    kv      [==] [==]  [=]          each hop, from posted to arrived
    r1   F  ...

A hop is open from its post to the moment when it has been waited for: with overlap that is as long
as the tiles it travels beside, without it as long as the wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.program import Lane
from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Span, Trace
from parallel_core.views.context_plans import AXES
from parallel_core.views.marks import Mark, draw, framed_rows, work
from parallel_core.views.palette import phase_of


@dataclass(frozen=True)
class Stamp:
    """One message of one rank: which of its kind, what it carries, nanoseconds."""

    rank: int
    op: str
    what: str
    number: int
    bytes: int
    start: int
    done: int


def tasks(trace: Trace, op: str, where: str) -> list[Span]:
    """The first task of this op and layer on every rank of a step; () where there is none."""
    found: dict[int, Span] = {}
    for span in trace.spans:
        if (span.op, span.where, span.lane) == (op, where, Lane.COMPUTE):
            found.setdefault(span.rank, span)
    return [found[rank] for rank in sorted(found)]


def stamps(task: Span) -> list[Stamp]:
    """Its messages over cp, in order."""
    seen: dict[str, int] = {}
    found = []
    for op, axis, value, size, start, done in task.inside:
        if axis in AXES:
            what = value.split("[")[0].removeprefix("cp_")
            number = seen[what] = seen.get(what, -1) + 1
            found.append(Stamp(task.rank, op, what, number, size, start, done))
    return found


def figure(found: Sequence[Span], trace: Trace, *, dark: bool = False) -> go.Figure:
    """The tasks of all ranks on one clock, and below each its messages."""
    drawn, marks, names = go.Figure(), list[Mark](), dict[float, str]()
    origin = min(task.t_start for task in found)
    for task in found:
        names[float(len(names))] = f"r{task.rank} {task.op}"
        marks.append(work(task, len(names) - 1, origin))
        rows: dict[str, float] = {}
        for stamp in stamps(task):
            if stamp.what not in rows:
                rows[stamp.what] = float(len(names))
                names[rows[stamp.what]] = stamp.what
            marks.append(_mark(stamp, rows[stamp.what], origin))
    draw(drawn, marks, trace.kind, dark)
    framed_rows(drawn, names, [trace.provenance.badge], dark=dark)
    return drawn.update_xaxes(title="ms since the first of these tasks began").update_layout(
        showlegend=False
    )


def _mark(stamp: Stamp, row: float, origin: int) -> Mark:
    took = time_text(stamp.done - stamp.start)
    says = (
        f"r{stamp.rank} {stamp.op} {stamp.what} {stamp.number}: {bytes_text(stamp.bytes)}, {took}"
    )
    left, right = ((moment - origin) / 1e6 for moment in (stamp.start, stamp.done))
    return Mark(row, left, right, phase_of(stamp.op), says, str(stamp.number))


def table(found: Sequence[Span]) -> list[dict[str, str]]:
    """A row a message of one rank after the other: when, how long, how much."""
    return [
        {
            "rank": str(stamp.rank),
            "message": f"{stamp.op} {stamp.what} {stamp.number}",
            "after the task began": time_text(stamp.start - task.t_start),
            "open for": time_text(stamp.done - stamp.start),
            "handed over": bytes_text(stamp.bytes),
        }
        for task in found
        for stamp in stamps(task)
    ]

"""What of a ring's messages is exposed: one run replayed twice, with the next hop posted before
this hop's tiles, and waited for before them.

    overlap     tiles |==0==|==1==|==2==|          off    tiles       |==0==|      |==1==|
                kv    [-0-][-1-]                          kv    [-0-]       [-1-]

In a replay a task lasts as long as its own processor time and whatever it stands still for; what it
stands still for is communication, with the waiting for a neighbour that has more to do.
"""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.quantities import time_text
from parallel_core.trace import Span, Trace
from parallel_core.views import context_stamps
from parallel_core.views.context_plans import AXES


@dataclass(frozen=True, kw_only=True)
class Exposed:
    """Of one step, milliseconds a rank, mean over ranks: until its end, with messages open inside
    tasks, and standing still there."""

    step: float
    open: float
    exposed: float

    @property
    def hidden(self) -> float:
        """The part of the messages under work, 0 to 1."""
        return max(1 - self.exposed / self.open, 0.0) if self.open else 0.0


def exposed(step: Trace) -> Exposed:
    """What the tasks of a replayed step with messages over cp inside are made of."""
    still, under_way = 0, 0
    for span in step.spans:
        inside = [row for row in span.inside if row[1] in AXES]
        if inside:
            still += span.duration - span.cpu_ns
            under_way += sum(done - start for *_, start, done in inside)
    ranks = max(step.world_size, 1) * 1e6
    return Exposed(step=step.makespan / 1e6, open=under_way / ranks, exposed=still / ranks)


def figures(
    on: Trace, off: Trace, *, op: str, where: str, dark: bool = False
) -> tuple[go.Figure, go.Figure] | None:
    """The tasks of a layer with their messages, with overlap and without, on axes of one length;
    None where the run has no such task."""
    drawn, most = [], 0.0
    for trace in (on, off):
        found = context_stamps.tasks(trace, op, where)
        if not found:
            return None
        begin = min(task.t_start for task in found)
        most = max(most, max(task.t_done for task in found) - begin)
        drawn.append(context_stamps.figure(found, trace, dark=dark))
    for figure in drawn:
        figure.update_xaxes(range=[-0.02 * most / 1e6, 1.02 * most / 1e6])
    return drawn[0], drawn[1]


def table(on: Trace, off: Trace, *, op: str, where: str) -> list[dict[str, str]]:
    """A row a rank: for how much of a layer's task it stands still, with overlap and without."""
    both = zip(*(context_stamps.tasks(trace, op, where) for trace in (on, off)), strict=True)
    return [
        {"rank": str(one.rank), "still, overlap on": _still(one), "still, overlap off": _still(two)}
        for one, two in both
    ]


def _still(task: Span) -> str:
    return f"{time_text(task.duration - task.cpu_ns)} of {time_text(task.duration)}"


def in_words(on: Exposed, off: Exposed) -> str:
    """The pair's message, in a sentence or two."""
    gain = off.step / on.step if on.step else 1.0
    return (
        f"With overlap a rank stands still for **{on.exposed:.3g} ms** of a step, without for "
        f"**{off.exposed:.3g} ms**: overlap hides {100 * on.hidden:.0f} % of the messages' "
        f"{on.open:.3g} ms, and the step is {gain:.2f} times as fast."
    )

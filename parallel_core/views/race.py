"""Two ways to run the same step, on one time axis: who finishes first, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.cost import Link
from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Trace
from parallel_core.views.frame import blank
from parallel_core.views.marks import (
    Mark,
    computed,
    draw,
    framed_rows,
    gradient_messages,
    ms,
    origin_of,
    work,
)
from parallel_core.views.outcome import NOISY, Outcome, spread, typical_step

MOST_APART = 3.0
"""Links fitted to two runs alone may differ by this factor; beyond it the machine decides."""


def race(runs: Mapping[str, Trace], *, called: bool = True, dark: bool = False) -> go.Figure:
    """The typical step of each run's slowest rank on one time axis; a flag where it is over.

    Unless `called`, no flag says who was first.
    """
    figure = blank()
    rows: dict[float, str] = {}
    ends: dict[float, float] = {}
    for at, (name, trace) in enumerate(runs.items()):
        row = at * 2.6
        marks = _two_rows(trace, row)
        draw(figure, marks, trace.kind, dark)
        rows |= {row: name, row + 1: "messages"}
        ends[row] = max(mark.right for mark in marks)
    for row, end in ends.items():
        first = ", first" if called and end == min(ends.values()) and len(ends) > 1 else ""
        late = end > 0.5 * max(ends.values())
        figure.add_annotation(
            x=end, y=row - 0.62, text=f"<b>{end:,.1f} ms{first} ⚑</b>" if late
            else f"<b>⚑ {end:,.1f} ms{first}</b>", showarrow=False,
            xanchor="right" if late else "left",
        )  # fmt: skip
    badges = [f"{name}: {trace.provenance.badge}" for name, trace in runs.items()]
    return framed_rows(figure, rows, badges, dark=dark)


def outcome(runs: Mapping[str, Trace]) -> Outcome:
    """Who won between exactly two runs."""
    times = {name: max(m.right for m in _two_rows(trace, 0)) for name, trace in runs.items()}
    peaks = {name: max(s.memory for s in trace.spans) for name, trace in runs.items()}
    first, second = sorted(times, key=lambda name: times[name])
    return Outcome(first=first, second=second, times=times, peaks=peaks)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Two runs of the same work, on both clocks; the replays share one link."""

    wall: Mapping[str, Trace]
    own: Mapping[str, Trace]
    link: Link  # fitted to all runs that are compared, and taken for each replay
    alone: Mapping[str, Link]  # fitted to each run by itself

    @property
    def apart(self) -> float:
        """By which factor the bandwidths of the links fitted alone differ."""
        betas = [link.beta for link in self.alone.values()]
        return max(betas) / min(betas)

    @property
    def noise(self) -> float:
        """Milliseconds by which the steps of one and the same run differ, on own devices."""
        return max(spread(trace) for trace in self.own.values())

    @property
    def called(self) -> bool:
        """Whether the machine held still enough to say who won."""
        return self.apart <= MOST_APART and outcome(self.own).lead >= self.noise

    @property
    def headline(self) -> str:
        """Who won, and by how much on either clock; or that it is too noisy to call."""
        if not self.called:
            return NOISY
        own = outcome(self.own)
        wall = outcome(self.wall).times
        by_wall = wall[own.second] / wall[own.first]
        return (
            f"{own.first.capitalize()}: {own.ratio:.2f} times as fast on own devices, "
            f"{by_wall:.2f} times by the wall clock"
        )

    @property
    def words(self) -> str:
        """What the headline rests on: the gap, and the link of both replays; one or two sentences.

        Without a call, how far the links or the steps of one run are apart, what the wall clock
        says, and what to do.
        """
        if self.apart > MOST_APART:
            each = ", ".join(f"{name} {x.beta / 1e9:.2g} GB/s" for name, x in self.alone.items())
            return (
                f"Fitted to each run alone, the links differ by a factor {self.apart:.1f} ({each}),"
                f" more than {MOST_APART:g}: no one link describes both, so own devices have no"
                f" winner. By the wall clock, {outcome(self.wall).words}; that may be the machine's"
                " doing. Race again when nothing else runs here."
            )
        if not self.called:
            return (
                f"On own devices, {outcome(self.own).words}; but the steps of a single run differ"
                f" by {self.noise:.1f} ms there, so that is no result. By the wall clock,"
                f" {outcome(self.wall).words}. Race again with more steps, or when nothing else"
                " runs here."
            )
        return (
            f"On own devices, {outcome(self.own).words}. Both were replayed over the one link"
            f" fitted to all the runs compared: {self.link}."
        )


def _two_rows(trace: Trace, row: float) -> list[Mark]:
    """Compute and messages of the rank that ends the typical step."""
    step = trace.only(typical_step(trace))
    rank = max(step.spans, key=lambda span: span.t_done).rank
    origin = origin_of(step, rank)
    marks = [work(span, row, origin) for span in computed(step, rank)]
    for span in gradient_messages(step, rank):
        marks.append(
            Mark(row + 1, ms(span.t_start, origin), ms(span.t_done, origin), "collective",
                 f"{span.label}: {time_text(span.duration)}, {bytes_text(span.bytes)}")
        )  # fmt: skip
    return marks

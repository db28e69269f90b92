"""Two ways to run the same step, on one time axis: who finishes first, and by how much."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from parallel_core.analysis.waits import nice_time
from parallel_core.trace import Trace
from parallel_core.views.account import bytes_text
from parallel_core.views.frame import blank
from parallel_core.views.marks import (
    Mark,
    computed,
    draw,
    framed_rows,
    gradient_messages,
    ms,
    origin_of,
    typical_step,
    work,
)


def race(runs: Mapping[str, Trace], *, dark: bool = False) -> go.Figure:
    """The typical step of each run's slowest rank on one time axis; a flag where it is over."""
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
        first = ", first" if end == min(ends.values()) and len(ends) > 1 else ""
        late = end > 0.5 * max(ends.values())
        figure.add_annotation(
            x=end, y=row - 0.62, text=f"<b>{end:,.1f} ms{first} ⚑</b>" if late
            else f"<b>⚑ {end:,.1f} ms{first}</b>", showarrow=False,
            xanchor="right" if late else "left",
        )  # fmt: skip
    badges = [f"{name}: {trace.provenance.badge}" for name, trace in runs.items()]
    return framed_rows(figure, rows, badges, dark=dark)


def verdict(runs: Mapping[str, Trace]) -> str:
    """Which of the two runs won, by how much time and memory, in one sentence."""
    times, peaks = {}, {}
    for name, trace in runs.items():
        times[name] = max(mark.right for mark in _two_rows(trace, 0))
        peaks[name] = max(span.memory for span in trace.spans)
    fast, slow = sorted(times, key=lambda name: times[name])
    gap = peaks[fast] - peaks[slow]
    memory = "the same peak of live tensors"
    if gap:
        memory = f"{bytes_text(abs(gap))} {'more' if gap > 0 else 'less'} at the memory peak"
    return (
        f"{fast} finishes the step {times[slow] - times[fast]:.1f} ms before {slow}"
        f" ({times[slow] / times[fast]:.2f} times as fast), with {memory}"
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
                 f"{span.label}: {nice_time(span.duration)}, {bytes_text(span.bytes)}")
        )  # fmt: skip
    return marks

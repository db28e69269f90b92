"""Bucket lanes: one rank's step with a lane for every gradient message.

    compute    F F F B B B |exposed| O        queued    behind another message of its own rank
    bucket0          queued[wait|wire]        wait      a peer has not posted it yet
    bucket1               [   wire   ]        wire      bytes move

What is under way when the backward is over stays exposed: the optimizer stands until it is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from parallel_core.analysis.lateness import Meeting
from parallel_core.meetings import messages
from parallel_core.program import Op
from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Span, Trace
from parallel_core.views.frame import blank, ink
from parallel_core.views.marks import (
    Mark,
    computed,
    draw,
    framed_rows,
    gradient_messages,
    ms,
    origin_of,
    outline,
    typical_step,
    work,
)
from parallel_core.views.palette import PHASES

MOST_LANES = 24


def bucket_lanes(
    trace: Trace, *, model: Trace | None = None, rank: int = 0, dark: bool = False
) -> go.Figure:
    """The typical step of one rank: its compute lane, and one lane a gradient message.

    `model` is drawn over it as dashed outlines. Beyond MOST_LANES messages the last are left out,
    and the figure says so.
    """
    step = trace.only(typical_step(trace))
    sent = gradient_messages(step, rank)
    marks = _lanes(step, rank, sent[:MOST_LANES])
    figure = blank()
    draw(figure, marks, trace.kind, dark)
    if model is not None:
        modelled = gradient_messages(model, rank)[:MOST_LANES]
        outline(figure, _lanes(model, rank, modelled), dark)
    _shade_exposed(figure, step, rank, dark)
    _say_what_they_hold(figure, step, sent[:MOST_LANES])
    names: dict[float, str] = dict(
        enumerate(["compute", *(span.where for span in sent[:MOST_LANES])])
    )
    badge = [f"rank {rank}, step {step.steps[0]}; {trace.provenance.badge}"]
    if len(sent) > MOST_LANES:
        badge.append(f"the first {MOST_LANES} of {len(sent)} messages")
    badge += [] if model is None else [f"dashed outlines: {model.provenance.badge}"]
    return framed_rows(figure, names, badge, dark=dark)


def account(trace: Trace, rank: int = 0) -> str:
    """The bucket lanes in words, one sentence a message."""
    step = trace.only(typical_step(trace))
    origin, over = origin_of(step, rank), _backward_end(step, rank)
    lines = [f"Backward ends at {time_text(over - origin)}; {_exposed_text(step, rank)}."]
    for span in gradient_messages(step, rank):
        lines.append(
            f"{span.where} ({_held(step, span)}): {bytes_text(span.bytes)}, complete at"
            f" {time_text(span.t_post - origin)}, sent at {time_text(span.t_start - origin)},"
            f" summed at {time_text(span.t_done - origin)}"
            f"{' (after the backward)' if span.t_done > over else ' (hidden)'}."
        )
    return "\n".join(f"- {line}" for line in lines)


def uncovered(step: Trace, rank: int) -> int:
    """From the end of the backward to the last gradient's arrival, nanoseconds."""
    last = max((s.t_done for s in gradient_messages(step, rank)), default=0)
    return max(last - _backward_end(step, rank), 0)


def _held(step: Trace, message: Span) -> str:
    """The units a message carries: those whose backward it depends on."""
    if not message.where.startswith("bucket"):
        return message.where
    at = {s.index: s for s in step.by_rank[message.rank]}
    held = [at[i].where for i in sorted(message.deps) if i in at and at[i].op == Op.B]
    return held[0] if len(held) == 1 else f"{held[0]} … {held[-1]}"


def _backward_end(step: Trace, rank: int) -> int:
    return max(span.t_done for span in step.by_rank[rank] if span.op == Op.B)


def _exposed_text(step: Trace, rank: int) -> str:
    return f"{time_text(uncovered(step, rank))} of communication are exposed in this step"


def _lanes(step: Trace, rank: int, sent: Sequence[Span]) -> list[Mark]:
    origin = origin_of(step, rank)
    marks = [work(span, 0, origin) for span in computed(step, rank)]
    every = [Meeting.of(ends) for ends in messages(step)]
    met = {end: meeting for meeting in every for end in meeting.ends}
    for row, span in enumerate(sent, start=1):
        marks += _message(span, met[span], row, origin)
    return marks


def _message(span: Span, meeting: Meeting, row: int, origin: int) -> list[Mark]:
    """Queued, waiting for a peer, then for its link, on the wire: the parts of one message."""
    late, queue, _ = meeting.parts(span, span.t_start, span.t_done)
    posted = span.t_start + late
    wire = posted + queue
    parts = (
        ("queued", span.t_post, span.t_start, "behind an earlier message"),
        ("wait", span.t_start, posted, f"waits for rank {meeting.culprit.rank}"),
        ("queued", posted, wire, "behind a peer's earlier message"),
        ("collective", wire, span.t_done, f"on the wire, {bytes_text(span.bytes)}"),
    )
    return [
        Mark(row, ms(begin, origin), ms(end, origin), look,
             f"{span.label}: {time_text(end - begin)} {why}")
        for look, begin, end, why in parts
        if end > begin
    ]  # fmt: skip


def _shade_exposed(figure: go.Figure, step: Trace, rank: int, dark: bool) -> None:
    """A band from the end of the backward to the last gradient's arrival."""
    gap = uncovered(step, rank)
    begin = ms(_backward_end(step, rank), origin_of(step, rank))
    shade = PHASES["I"].dark if dark else PHASES["I"].light
    figure.add_vrect(x0=begin, x1=begin + gap / 1e6, fillcolor=shade, opacity=0.16, line_width=0)
    figure.add_vline(x=begin, line={"color": ink(dark), "width": 1.5})
    early = begin < (step.makespan / 1e6) / 2
    figure.add_annotation(
        x=begin, y=0, yref="paper", yanchor="bottom", xanchor="left" if early else "right",
        xshift=4 if early else -4, showarrow=False,
        text=f"backward over: <b>{time_text(gap)} exposed</b>", font={"size": 12},
    )  # fmt: skip


def _say_what_they_hold(figure: go.Figure, step: Trace, sent: Sequence[Span]) -> None:
    """Units and bytes, in the lane's empty part before the message; where there is room."""
    for row, span in enumerate(sent, start=1):
        if ms(span.t_post, origin_of(step, span.rank)) > 0.4 * step.makespan / 1e6:
            figure.add_annotation(
                x=0, y=row, text=f"{_held(step, span)}, {bytes_text(span.bytes)}",
                showarrow=False, xanchor="left", xshift=4, font={"size": 11},
            )  # fmt: skip

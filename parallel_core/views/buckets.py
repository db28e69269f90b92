"""Bucket lanes: one rank's step with a lane for every gradient message, and two steps in a race.

    compute    F F F B B B |exposed| O        queued    behind another message of its own rank
    bucket0          queued[wait|wire]        wait      it has arrived, a peer has not
    bucket1               [   wire   ]        wire      bytes move

Measured and replayed boxes are solid, modelled ones pale under a dashed outline; a model laid over
a run is the outline alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.analysis.waits import last_arrival, messages, nice_time, split
from parallel_core.program import Lane, Op
from parallel_core.trace import Kind, Span, Trace
from parallel_core.views.account import bytes_text
from parallel_core.views.exposure import framed
from parallel_core.views.frame import PAGES, blank, ink
from parallel_core.views.palette import PHASES, mix, phase_of

MOST_LANES = 24
_CLEAR = "rgba(0,0,0,0)"
_HATCHED = {"wait": "\\", "queued": "."}


@dataclass(frozen=True)
class Mark:
    """A box in row `row`, from `left` to `right` milliseconds; `look` is a phase, wait, queued."""

    row: int
    left: float
    right: float
    look: str
    hover: str = ""
    label: str = ""


def typical_step(trace: Trace) -> int:
    """The step of median duration, the first one (which warms up) left out if there are more."""
    steps = trace.steps[1:] or trace.steps
    return sorted(steps, key=lambda step: trace.only(step).makespan)[len(steps) // 2]


def bucket_lanes(
    trace: Trace, *, model: Trace | None = None, rank: int = 0, dark: bool = False
) -> go.Figure:
    """The typical step of one rank: its compute lane, and one lane a gradient message.

    `model` is drawn over it as dashed outlines. Beyond MOST_LANES messages the last are left out,
    and the figure says so.
    """
    step = trace.only(typical_step(trace))
    sent = _gradient_messages(step, rank)
    marks = _lanes(step, rank, sent[:MOST_LANES])
    figure = blank()
    _draw(figure, marks, trace.kind, dark)
    if model is not None:
        modelled = _gradient_messages(model, rank)[:MOST_LANES]
        _outline(figure, _lanes(model, rank, modelled), dark)
    _shade_exposed(figure, step, rank, dark)
    for row, span in enumerate(sent[:MOST_LANES], start=1):
        figure.add_annotation(
            x=0, y=row, text=f"{_held(step, span)}, {bytes_text(span.bytes)}", showarrow=False,
            xanchor="left", xshift=4, font={"size": 11},
        )  # fmt: skip
    names = ["compute", *(span.where for span in sent[:MOST_LANES])]
    badge = [f"rank {rank}, step {step.steps[0]}; {trace.provenance.badge}"]
    if len(sent) > MOST_LANES:
        badge.append(f"the first {MOST_LANES} of {len(sent)} messages")
    badge += [] if model is None else [f"outlines: {model.provenance.badge}"]
    return _framed(figure, names, badge, dark=dark)


def race(runs: Mapping[str, Trace], *, dark: bool = False) -> go.Figure:
    """The typical step of each run's slowest rank on one time axis; a flag where it is over."""
    figure, names, ends = blank(), [], {}
    for at, (name, trace) in enumerate(runs.items()):
        step = trace.only(typical_step(trace))
        rank = max(step.spans, key=lambda span: span.t_done).rank
        marks = _two_rows(step, rank, 2 * at)
        _draw(figure, marks, trace.kind, dark)
        names += [name, "messages"]
        ends[name] = max(mark.right for mark in marks)
    for at, end in enumerate(ends.values()):
        first = " first" if end == min(ends.values()) and len(ends) > 1 else ""
        figure.add_annotation(
            x=end, y=2 * at, text=f"<b>⚑ {end:,.1f} ms{first}</b>", showarrow=False,
            xanchor="left", xshift=6,
        )  # fmt: skip
    badges = [f"{name}: {trace.provenance.badge}" for name, trace in runs.items()]
    _framed(figure, names, badges, dark=dark)
    return figure.update_xaxes(range=[0, 1.3 * max(ends.values())])


def verdict(runs: Mapping[str, Trace]) -> str:
    """Who won the race, by how much time and memory, in one sentence."""
    times, peaks = {}, {}
    for name, trace in runs.items():
        step = trace.only(typical_step(trace))
        rank = max(step.spans, key=lambda span: span.t_done).rank
        times[name] = max(mark.right for mark in _two_rows(step, rank, 0))
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


def account(trace: Trace, rank: int = 0) -> str:
    """The bucket lanes in words, one sentence a message."""
    step = trace.only(typical_step(trace))
    origin, over = _origin(step, rank), _backward_end(step, rank)
    lines = [f"Backward ends at {nice_time(over - origin)}; {_exposed_text(step, rank)}."]
    for span in _gradient_messages(step, rank):
        lines.append(
            f"{span.where} ({_held(step, span)}): {bytes_text(span.bytes)}, complete at"
            f" {nice_time(span.t_post - origin)}, sent at {nice_time(span.t_start - origin)},"
            f" summed at {nice_time(span.t_done - origin)}"
            f"{' (after the backward)' if span.t_done > over else ' (hidden)'}."
        )
    return "\n".join(f"- {line}" for line in lines)


# -- from spans to marks -----------------------------------------------------------------------


def _gradient_messages(step: Trace, rank: int) -> list[Span]:
    """The rank's comm lane in order, the loss (a scalar) left out."""
    row = step.by_rank[rank]
    return [s for s in row if s.lane == Lane.COMM and s.where != "loss"]


def _held(step: Trace, message: Span) -> str:
    """The units a message carries: those whose backward it depends on."""
    if not message.where.startswith("bucket"):
        return message.where
    at = {s.index: s for s in step.by_rank[message.rank]}
    held = [at[i].where for i in sorted(message.deps) if i in at and at[i].op == Op.B]
    return held[0] if len(held) == 1 else f"{held[0]} … {held[-1]}"


def _origin(step: Trace, rank: int) -> int:
    return min(span.t_start for span in step.by_rank[rank])


def _backward_end(step: Trace, rank: int) -> int:
    return max(span.t_done for span in step.by_rank[rank] if span.op == Op.B)


def _exposed_text(step: Trace, rank: int) -> str:
    return f"{nice_time(uncovered(step, rank))} of communication are exposed"


def uncovered(step: Trace, rank: int) -> int:
    """From the end of the backward to the last gradient's arrival, nanoseconds."""
    last = max((s.t_done for s in _gradient_messages(step, rank)), default=0)
    return max(last - _backward_end(step, rank), 0)


def _lanes(step: Trace, rank: int, sent: Sequence[Span]) -> list[Mark]:
    origin = _origin(step, rank)
    marks = [_work(span, 0, origin) for span in _computed(step, rank)]
    lasts = {end: last_arrival(ends) for ends in messages(step) for end in ends}
    for row, span in enumerate(sent, start=1):
        marks += _message(span, lasts[span], row, origin)
    return marks


def _two_rows(step: Trace, rank: int, row: int) -> list[Mark]:
    origin = _origin(step, rank)
    marks = [_work(span, row, origin) for span in _computed(step, rank)]
    for span in _gradient_messages(step, rank):
        marks.append(
            Mark(row + 1, _ms(span.t_start, origin), _ms(span.t_done, origin), "collective",
                 f"{span.label}: {nice_time(span.duration)}, {bytes_text(span.bytes)}")
        )  # fmt: skip
    return marks


def _computed(step: Trace, rank: int) -> Iterable[Span]:
    return (s for s in step.by_rank[rank] if s.lane == Lane.COMPUTE and s.op != Op.WAIT)


def _work(span: Span, row: int, origin: int) -> Mark:
    letter = PHASES[phase_of(span.op)].letter
    hover = f"{span.label}: {nice_time(span.duration)}"
    left, right = _ms(span.t_start, origin), _ms(span.t_done, origin)
    return Mark(row, left, right, phase_of(span.op), hover, letter)


def _message(span: Span, last: Span, row: int, origin: int) -> list[Mark]:
    """Queued, waiting for a peer, on the wire: the three parts of one message."""
    wire = split(span, last)
    parts = (
        ("queued", span.t_post, span.t_start, "behind an earlier message"),
        ("wait", span.t_start, wire, f"waits for rank {last.rank}"),
        ("collective", wire, span.t_done, f"on the wire, {bytes_text(span.bytes)}"),
    )
    return [
        Mark(row, _ms(begin, origin), _ms(end, origin), look,
             f"{span.label}: {nice_time(end - begin)} {why}")
        for look, begin, end, why in parts
        if end > begin
    ]  # fmt: skip


def _ms(moment: int, origin: int) -> float:
    return (moment - origin) / 1e6


# -- from marks to a figure --------------------------------------------------------------------


def _draw(figure: go.Figure, marks: Sequence[Mark], kind: Kind, dark: bool) -> None:
    """One bar trace a look; a whole backward is an I half and a W half."""
    halves: list[Mark] = []
    for mark in marks:
        middle = (mark.left + mark.right) / 2
        cut = (("I", mark.left, middle), ("W", middle, mark.right))
        if mark.look == "B":
            halves += [Mark(mark.row, a, b, look, mark.hover) for look, a, b in cut]
        else:
            halves.append(mark)
    for look in dict.fromkeys(mark.look for mark in halves):
        _bars(figure, [mark for mark in halves if mark.look == look], look, kind, dark)
    if kind is Kind.MODELLED:
        _outline(figure, marks, dark)


def _bars(figure: go.Figure, marks: Sequence[Mark], look: str, kind: Kind, dark: bool) -> None:
    fill, hatch = _CLEAR, _HATCHED.get(look, "")
    if look in PHASES:
        shade = PHASES[look]
        fill, hatch = shade.dark if dark else shade.light, shade.hatch
        fill = mix(fill, PAGES[dark], 0.35) if kind is Kind.MODELLED else fill
    edge = {"color": ink(dark), "width": 0 if kind is Kind.MODELLED else 1}
    pattern = {"shape": hatch, "fgcolor": ink(dark), "bgcolor": fill, "size": 7, "solidity": 0.15}
    figure.add_bar(
        base=[mark.left for mark in marks],
        x=[mark.right - mark.left for mark in marks],
        y=[mark.row for mark in marks],
        orientation="h", width=0.62, name=look, hoverinfo="text",
        hovertext=[mark.hover for mark in marks],
        marker={"color": fill, "line": edge, "pattern": pattern if hatch else {}},
    )  # fmt: skip


def _outline(figure: go.Figure, marks: Sequence[Mark], dark: bool) -> None:
    """Every box as a dashed outline, in one trace."""
    x: list[float | None] = []
    y: list[float | None] = []
    for mark in marks:
        low, high = mark.row - 0.4, mark.row + 0.4
        x += [mark.left, mark.right, mark.right, mark.left, mark.left, None]
        y += [low, low, high, high, low, None]
    line = {"color": ink(dark), "width": 1.5, "dash": "dash"}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, name="model", hoverinfo="skip")


def _shade_exposed(figure: go.Figure, step: Trace, rank: int, dark: bool) -> None:
    """A band from the end of the backward to the last gradient's arrival."""
    gap = uncovered(step, rank)
    begin = _ms(_backward_end(step, rank), _origin(step, rank))
    shade = PHASES["I"].dark if dark else PHASES["I"].light
    figure.add_vrect(x0=begin, x1=begin + gap / 1e6, fillcolor=shade, opacity=0.16, line_width=0)
    figure.add_vline(x=begin, line={"color": ink(dark), "width": 1.5})
    early = begin < (step.makespan / 1e6) / 2
    figure.add_annotation(
        x=begin, y=0, yref="paper", yanchor="bottom", xanchor="left" if early else "right",
        xshift=4 if early else -4, showarrow=False,
        text=f"backward is over; <b>{nice_time(gap)} exposed</b>",
    )  # fmt: skip


def _framed(
    figure: go.Figure, names: Sequence[str], badges: Sequence[str], *, dark: bool
) -> go.Figure:
    framed(figure, badges, height=150 + 30 * len(names), dark=dark)
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title="ms since the step began", rangemode="tozero")
    rows = list(range(len(names)))
    # the row below the last lane is for the words at the line where the backward ends
    return figure.update_yaxes(tickvals=rows, ticktext=list(names), range=[len(names), -0.6])

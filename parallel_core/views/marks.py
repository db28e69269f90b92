"""Boxes of a step: from spans to marks, and from marks to bars on a Plotly figure.

Measured and replayed boxes are solid, modelled ones pale under a dashed outline; a model laid over
a run is the outline alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.program import Lane, Op
from parallel_core.quantities import time_text
from parallel_core.trace import Kind, Span, Trace
from parallel_core.views.exposure import framed
from parallel_core.views.frame import PAGES, ink
from parallel_core.views.outcome import typical_step as typical_step
from parallel_core.views.palette import PHASES, mix, phase_of

_CLEAR = "rgba(0,0,0,0)"
_HATCHED = {"wait": "\\", "queued": "."}


@dataclass(frozen=True)
class Mark:
    """A box in row `row`, from `left` to `right` milliseconds; `look` is a phase, wait, queued."""

    row: float
    left: float
    right: float
    look: str
    hover: str = ""
    label: str = ""


def origin_of(step: Trace, rank: int) -> int:
    """When the rank began the step, nanoseconds."""
    return min(span.t_start for span in step.by_rank[rank])


def ms(moment: int, origin: int) -> float:
    """Milliseconds since `origin`."""
    return (moment - origin) / 1e6


def computed(step: Trace, rank: int) -> Iterable[Span]:
    """The rank's compute lane without its waits."""
    return (s for s in step.by_rank[rank] if s.lane == Lane.COMPUTE and s.op != Op.WAIT)


def gradient_messages(step: Trace, rank: int) -> list[Span]:
    """The rank's comm lane in order, the loss (a scalar) left out."""
    row = step.by_rank[rank]
    return [s for s in row if s.lane in (Lane.COMM, Lane.TOKENS) and s.where != "loss"]


def work(span: Span, row: float, origin: int) -> Mark:
    """The mark of a compute op."""
    letter = PHASES[phase_of(span.op)].letter
    hover = f"{span.label}: {time_text(span.duration)}"
    left, right = ms(span.t_start, origin), ms(span.t_done, origin)
    return Mark(row, left, right, phase_of(span.op), hover, letter)


def draw(figure: go.Figure, marks: Sequence[Mark], kind: Kind, dark: bool) -> None:
    """One bar trace a look; a whole backward is an I half and a W half."""
    halves: list[Mark] = []
    for mark in marks:
        if mark.look == "B":
            middle = (mark.left + mark.right) / 2
            halves.append(Mark(mark.row, mark.left, middle, "I", mark.hover, "B"))
            halves.append(Mark(mark.row, middle, mark.right, "W", mark.hover))
        else:
            halves.append(mark)
    for look in dict.fromkeys(mark.look for mark in halves):
        _bars(figure, [mark for mark in halves if mark.look == look], look, kind, dark)
    if kind is Kind.MODELLED:
        outline(figure, marks, dark)


def _bars(figure: go.Figure, marks: Sequence[Mark], look: str, kind: Kind, dark: bool) -> None:
    fill, hatch, letters = _CLEAR, _HATCHED.get(look, ""), ink(dark)
    if look in PHASES:
        shade = PHASES[look]
        fill, hatch = shade.dark if dark else shade.light, shade.hatch
        letters = shade.dark_ink if dark else shade.light_ink
    if kind is Kind.MODELLED and fill != _CLEAR:
        fill, letters = mix(fill, PAGES[dark], 0.35), ink(dark)
    edge = {"color": ink(dark), "width": 0 if kind is Kind.MODELLED else 1}
    pattern = {"shape": hatch, "fgcolor": ink(dark), "bgcolor": fill, "size": 7, "solidity": 0.15}
    figure.add_bar(
        base=[mark.left for mark in marks],
        x=[mark.right - mark.left for mark in marks],
        y=[mark.row for mark in marks],
        orientation="h", width=0.62, name=look, hoverinfo="text",
        hovertext=[mark.hover for mark in marks],
        text=[mark.label for mark in marks], textposition="inside", insidetextanchor="middle",
        insidetextfont={"color": letters, "size": 11}, textangle=0,
        marker={"color": fill, "line": edge, "pattern": pattern if hatch else {}},
    )  # fmt: skip


def outline(figure: go.Figure, marks: Sequence[Mark], dark: bool) -> None:
    """Every box as a dashed outline, in one trace."""
    x: list[float | None] = []
    y: list[float | None] = []
    for mark in marks:
        low, high = mark.row - 0.4, mark.row + 0.4
        x += [mark.left, mark.right, mark.right, mark.left, mark.left, None]
        y += [low, low, high, high, low, None]
    line = {"color": ink(dark), "width": 1.5, "dash": "dash"}
    figure.add_scatter(x=x, y=y, mode="lines", line=line, name="model", hoverinfo="skip")


def framed_rows(
    figure: go.Figure, rows: Mapping[float, str], badges: Sequence[str], *, dark: bool
) -> go.Figure:
    """The common frame, with named rows from the top and a time axis."""
    framed(figure, badges, height=150 + 30 * len(rows), dark=dark)
    figure.update_layout(barmode="overlay", uniformtext={"mode": "hide", "minsize": 10})
    figure.update_xaxes(title="ms since the step began", rangemode="tozero")
    # the row below the last lane is for the words at the line where the backward ends
    span = [max(rows) + 1, -0.9]
    return figure.update_yaxes(tickvals=list(rows), ticktext=list(rows.values()), range=span)

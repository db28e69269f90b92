"""What a collective costs over the size of its buffer: the models as lines, the runs as dots.

modelled   dashed lines; the chosen algorithm and its rival in colour, the others grey
measured   filled dots, torch's own call as squares
quoted     grey dotted lines
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Kind
from parallel_core.views.chart_frame import colour, framed, safe
from parallel_core.views.frame import DASH, GREY, blank, ink, log_range
from parallel_core.views.palette import PHASES

Point = tuple[float, float]
"""(bytes of the buffer, seconds)."""

_ROLES = {"chosen": "F", "rival": "I"}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One algorithm over sizes, or a published curve; `role` is chosen, rival or other."""

    name: str
    points: Sequence[Point]
    role: str = "other"
    kind: Kind = Kind.MODELLED


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One run: which algorithm, what it took, and its number in this session."""

    name: str
    at: Point
    label: str = ""
    role: str = "other"
    theirs: bool = False  # torch's own call
    kind: Kind = Kind.MEASURED


@dataclass(frozen=True)
class Crossing:
    """The size at which two lines meet."""

    at: Point
    words: str


def cost_curve(
    curves: Sequence[Curve],
    dots: Sequence[Dot],
    crossings: Sequence[Crossing] = (),
    *,
    badges: Sequence[str],
    dark: bool = False,
) -> go.Figure:
    """Seconds over bytes, log-log; at least one curve."""
    figure = blank()
    for curve in sorted(curves, key=lambda c: c.role != "other"):
        _draw_curve(figure, curve, dark)
    for theirs in (False, True):
        _draw_dots(figure, [dot for dot in dots if dot.theirs == theirs], theirs, dark)
    for crossing in crossings:
        _draw_crossing(figure, crossing, dark)
    points = [p for curve in curves for p in curve.points] + [dot.at for dot in dots]
    sizes, times = ([p[axis] for p in points] for axis in (0, 1))
    marks = [4.0**k for k in range(20) if min(sizes) <= 4.0**k <= max(sizes)][::2]
    clock = [10.0**k for k in range(-7, 4)]
    figure.update_xaxes(
        type="log", title="buffer", range=log_range(min(sizes) / 1.5, max(sizes) * 8),
        tickvals=marks, ticktext=[bytes_text(m) for m in marks],
    )  # fmt: skip
    figure.update_yaxes(
        type="log", title="time", range=log_range(min(times) / 2, max(times) * 2),
        tickvals=clock, ticktext=[time_text(1e9 * t) for t in clock],
    )  # fmt: skip
    narrow = [line for badge in badges for line in textwrap.wrap(badge, 38)]
    framed(figure, narrow, height=420, dark=dark)
    return figure.update_layout(showlegend=False, margin={"b": 48})


def _shade(role: str, dark: bool) -> str:
    return colour(PHASES[_ROLES[role]], dark) if role in _ROLES else GREY[dark]


def _draw_curve(figure: go.Figure, curve: Curve, dark: bool) -> None:
    strong = curve.role != "other"
    figure.add_scatter(
        x=[p[0] for p in curve.points], y=[p[1] for p in curve.points], mode="lines",
        name=f"{curve.name} ({curve.kind.value})",
        line={"color": _shade(curve.role, dark), "width": 2.5 if strong else 1.5,
              "dash": DASH.get(curve.kind, "solid")},
        hovertext=[_told(curve.name, curve.kind, p) for p in curve.points], hoverinfo="text",
    )  # fmt: skip
    if strong or curve.kind == Kind.QUOTED:
        size, time = curve.points[-1]
        figure.add_annotation(
            x=_log(size), y=_log(time), text=safe(curve.name), showarrow=False,
            xanchor="left" if strong else "right", xshift=6 if strong else 0,
            yshift=0 if strong else 14, font={"color": ink(dark), "size": 12},
        )  # fmt: skip


def _draw_dots(figure: go.Figure, dots: Sequence[Dot], theirs: bool, dark: bool) -> None:
    if not dots:
        return
    figure.add_scatter(
        x=[dot.at[0] for dot in dots], y=[dot.at[1] for dot in dots], mode="markers+text",
        text=[dot.label for dot in dots], textposition="middle right",
        textfont={"color": ink(dark), "size": 11},
        marker={"size": 9 if theirs else 12, "symbol": "square" if theirs else "circle",
                "color": [ink(dark) if theirs else _shade(dot.role, dark) for dot in dots],
                "line": {"width": 1, "color": ink(dark)}},
        hovertext=[_told(dot.name, dot.kind, dot.at) for dot in dots], hoverinfo="text",
        name="torch, measured" if theirs else "measured",
    )  # fmt: skip


def _draw_crossing(figure: go.Figure, crossing: Crossing, dark: bool) -> None:
    size, time = crossing.at
    figure.add_annotation(
        x=_log(size), y=_log(time), text=safe(crossing.words), ax=0, ay=-56, arrowhead=2,
        arrowcolor=ink(dark), font={"color": ink(dark), "size": 12},
    )  # fmt: skip


def _log(value: float) -> float:
    return log_range(value, value)[0]


def _told(name: str, kind: Kind, point: Point) -> str:
    return f"{safe(name)}, {kind.value}: {bytes_text(point[0])} in {time_text(1e9 * point[1])}"


def describe(
    curves: Sequence[Curve], dots: Sequence[Dot], crossings: Sequence[Crossing]
) -> list[str]:
    """The figure in words, a line a mark: what each curve takes at both ends, every dot."""
    lines = [
        f"{curve.name} ({curve.kind.value}): {_ends(curve.points[0])}, {_ends(curve.points[-1])}."
        for curve in curves
    ]
    lines += [f"{crossing.words}." for crossing in crossings]
    lines += [f"{dot.label} {_told(dot.name, dot.kind, dot.at)}.".strip() for dot in dots]
    return lines


def _ends(point: Point) -> str:
    return f"{time_text(1e9 * point[1])} at {bytes_text(point[0])}"

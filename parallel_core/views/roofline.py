"""The roofline as a figure: log-log, bent roofs with their ridges, kernels as dots under them.

A communication roof has its own x: FLOP per byte *sent*. It shares the axis and takes another
colour; a kernel that computes and sends has one dot for each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from parallel_core.trace import Kind
from parallel_core.views.frame import DASH, blank, finish, ink, log_range
from parallel_core.views.palette import PHASES

_SIDES = ("bottom right", "top left")  # of a dot, for its name; in turn, so that names part
_FAR = 0.75  # of the axis; a dot beyond has its name below it, inside the frame


@dataclass(frozen=True, kw_only=True)
class Roof:
    """A roof: `peak` FLOP/s, and the `bandwidth` in bytes/s of `traffic` (memory or a link)."""

    name: str
    peak: float
    bandwidth: float
    traffic: str = "memory"
    kind: Kind = Kind.MODELLED

    @property
    def ridge(self) -> float:
        """Intensity where the slope meets the flat part, FLOP per byte."""
        return self.peak / self.bandwidth

    def at(self, intensity: float) -> float:
        """FLOP/s the roof allows at that intensity."""
        return min(self.peak, intensity * self.bandwidth)


@dataclass(frozen=True)
class Dot:
    """A kernel: FLOP per byte, FLOP/s, the roof it stands under, the line that joins it to others.

    `roof` is a Roof's name; "" is the first one.
    """

    name: str
    intensity: float
    flops: float
    kind: Kind = Kind.MODELLED
    roof: str = ""
    line: str = ""


def roofline(
    roofs: Sequence[Roof], dots: Sequence[Dot], *, badge: str, dark: bool = False
) -> go.Figure:
    """Every roof a bent line with its ridge marked, every kernel a dot; at least one roof."""
    figure = blank()
    xs = [roof.ridge for roof in roofs] + [dot.intensity for dot in dots]
    low, high = min(xs) / 8, max(xs) * 8
    for place, roof in enumerate(roofs):
        _draw_roof(figure, roof, (low, high), lift=40 + 22 * place, dark=dark)
    for place, line in enumerate(dict.fromkeys(dot.line for dot in dots)):
        joined = [dot for dot in dots if dot.line == line]
        _draw_dots(figure, joined, (low, high), first_side=place, dark=dark)
    rates = [roof.at(low) for roof in roofs] + [dot.flops for dot in dots]
    top = max([roof.peak for roof in roofs] + rates) * 4.5 * 1.9 ** len(roofs)  # room for labels
    figure.update_xaxes(type="log", title="FLOP per byte", dtick=1, range=log_range(low, high))
    figure.update_yaxes(
        type="log",
        title="FLOP/s",
        dtick=1,
        tickformat="~s",
        range=log_range(min(rates) / 2, top),
    )
    return finish(figure, badge, height=460, dark=dark)


def of_findings(findings: Sequence[Mapping[str, Any]]) -> tuple[list[Roof], list[Dot]]:
    """The measured roof and dots in what `roofline_live.measure` emitted so far, in that order.

    No roof, and so no dot, before a stream and the peak have been measured.
    """
    streams = [f["bandwidth"] for f in findings if f["found"] == "stream"]
    peaks = [f["flops"] for f in findings if f["found"] == "peak"]
    if not streams or not peaks:
        return [], []
    here = Roof(name="this machine", peak=max(peaks), bandwidth=max(streams), kind=Kind.MEASURED)
    dots = [
        Dot(f"batch {f['batch']}", f["intensity"], f["flops"], Kind.MEASURED, line="matmul")
        for f in findings
        if f["found"] == "point"
    ]
    return [here], dots


def describe_roofline(roofs: Sequence[Roof], dots: Sequence[Dot]) -> str:
    """The figure in words: each roof, and for each kernel what limits it and how near it is."""
    named = {"": roofs[0], **{roof.name: roof for roof in roofs}}
    lines = [
        f"{roof.name}: {roof.peak:.3g} FLOP/s flat, {roof.bandwidth:.3g} bytes/s of "
        f"{roof.traffic} sloping, ridge at {_short(roof.ridge)} FLOP per byte."
        for roof in roofs
    ]
    for dot in dots:
        roof = named[dot.roof]
        limit = "compute" if dot.intensity >= roof.ridge else roof.traffic
        lines.append(
            f"{dot.name} ({dot.kind.value}): {dot.intensity:.3g} FLOP per byte, {dot.flops:.3g} "
            f"FLOP/s, {dot.flops / roof.at(dot.intensity):.0%} of the {limit} roof."
        )
    return "\n\n".join(lines)


def _draw_roof(
    figure: go.Figure, roof: Roof, across: tuple[float, float], *, lift: int, dark: bool
) -> None:
    low, high = across
    wire = PHASES["collective"].dark if dark else PHASES["collective"].light
    colour = ink(dark) if roof.traffic == "memory" else wire
    xs = [low, roof.ridge, high]
    figure.add_scatter(
        x=xs, y=[roof.at(x) for x in xs], mode="lines", name=roof.name, hoverinfo="name",
        line={"color": colour, "width": 2.5, "dash": DASH.get(roof.kind, "solid")},
    )  # fmt: skip
    figure.add_annotation(
        x=math.log10(roof.ridge), y=math.log10(roof.peak), ax=0, ay=-lift, arrowcolor=colour,
        text=f"{roof.name}: ridge {_short(roof.ridge)}", font={"color": ink(dark)},
    )  # fmt: skip


def _draw_dots(
    figure: go.Figure,
    dots: Sequence[Dot],
    across: tuple[float, float],
    *,
    first_side: int,
    dark: bool,
) -> None:
    colour = PHASES["F"].dark if dark else PHASES["F"].light
    far = across[1] ** _FAR * across[0] ** (1 - _FAR)
    sides = [
        "bottom center" if dot.intensity > far else _SIDES[(first_side + place) % 2]
        for place, dot in enumerate(dots)
    ]
    symbols = ["circle-open" if dot.kind == Kind.MODELLED else "circle" for dot in dots]
    figure.add_scatter(
        x=[dot.intensity for dot in dots], y=[dot.flops for dot in dots],
        mode="lines+markers+text", cliponaxis=False, textposition=sides,
        text=[dot.name.replace(", ", ",<br>") for dot in dots],
        line={"color": colour, "width": 1, "dash": "dot"},
        textfont={"color": ink(dark), "size": 11},
        marker={"size": 11, "symbol": symbols, "color": colour,
                "line": {"width": 2, "color": colour}},
        customdata=[dot.kind.value for dot in dots], name=dots[0].line or "kernels",
        hovertemplate="%{text} (%{customdata})<br>%{x:.3g} FLOP per byte, %{y:.3g} FLOP/s"
        "<extra></extra>",
    )  # fmt: skip


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"

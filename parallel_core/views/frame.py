"""What every chart shares: transparent paper, no legend, a badge in the corner, boxes that can
be dashed. How a mark is drawn says where it comes from:

    measured   solid fill, no edge             modelled   pale fill, dashed edge, hollow dot
    quoted     grey fill, dotted edge
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.trace import Kind
from parallel_core.views.palette import TENSORS, contrast, mix

DASH = {Kind.MODELLED: "dash", Kind.QUOTED: "dot"}
PAGES = {False: "#FFFFFF", True: "#11161B"}  # what a transparent figure lies on: light, dark
GREY = {False: "#C3C8CF", True: "#4A4F57"}
LINE = 16  # pixels that a line of a badge takes
_WRAP = 42  # letters of a badge's line that a narrow screen shows
_PALE = 0.6  # share of its colour that a modelled fill keeps


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle from `left` to `right` in row `y`: words on it, words when pointed at."""

    left: float
    right: float
    y: int
    label: str
    hover: str
    holds: str = ""  # a key of palette.TENSORS; "" is grey
    kind: Kind = Kind.MODELLED

    def fill(self, dark: bool) -> str:
        """Its colour as drawn: paler when modelled."""
        if self.holds not in TENSORS:
            return GREY[dark]
        shade = TENSORS[self.holds]
        return mix(shade.dark if dark else shade.light, PAGES[dark], _PALE)

    def ink(self, dark: bool) -> str:
        """Black or white, whichever reads better on the fill."""
        return max(("#000000", "#FFFFFF"), key=lambda colour: contrast(colour, self.fill(dark)))


def ink(dark: bool) -> str:
    """The colour of text and axes."""
    return "#F2F2F2" if dark else "#1B1E23"


def blank() -> go.Figure:
    """An empty figure without Plotly's template, which would be 7 kB in every saved notebook."""
    return go.Figure(layout={"template": "none"})


def add_edge(figure: go.Figure, box: Box, *, dark: bool, **fill: object) -> None:
    """The outline of `box`, since a bar's edge cannot be dashed; `fill` as Plotly names it."""
    half = 0.34
    figure.add_scatter(
        x=[box.left, box.right, box.right, box.left, box.left],
        y=[box.y - half, box.y - half, box.y + half, box.y + half, box.y - half],
        mode="lines", name=box.hover, **(fill or {"hoverinfo": "skip"}),
        line={"color": ink(dark), "width": 1.5, "dash": DASH.get(box.kind, "solid")},
    )  # fmt: skip


def add_box(figure: go.Figure, box: Box, *, log: bool = False, dark: bool) -> None:
    """Draw `box`: its outline, filled, and its words; `log` for a log x axis."""
    hatch = TENSORS[box.holds].hatch if box.holds in TENSORS else ""
    add_edge(
        figure, box, dark=dark, fill="toself", fillcolor=box.fill(dark),
        fillpattern={"shape": hatch}, text=box.hover, hoverinfo="text", hoveron="fills",
    )  # fmt: skip
    if not box.label:
        return
    left, right = (math.log10(box.left), math.log10(box.right)) if log else (box.left, box.right)
    figure.add_annotation(
        x=(left + right) / 2, y=box.y, text=box.label, showarrow=False, captureevents=False,
        font={"color": box.ink(dark), "size": 12},
    )  # fmt: skip


def safe(text: str) -> str:
    """Text that Plotly shows as it is: a stranger's trace may hold tags."""
    return html.escape(text, quote=False)


def finish(
    figure: go.Figure, badge: str | Sequence[str], *, height: int, dark: bool, grows: bool = False
) -> go.Figure:
    """Give the figure its paper, its grid and its badge (or several); returns it.

    Badges are wrapped for a narrow screen, also at "<br>", and the top margin holds all their
    lines; with `grows` that room is added to the height.
    """
    badges = [badge] if isinstance(badge, str) else badge
    parts = [part for each in badges for part in each.split("<br>")]
    lines = [safe(line) for part in parts for line in textwrap.wrap(part, _WRAP)]
    height += LINE * len(lines) * grows
    grid = "rgba(242,242,242,0.16)" if dark else "rgba(27,30,35,0.12)"
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", showlegend=False,
        font={"color": ink(dark), "size": 13}, height=height,
        margin={"l": 10, "r": 16, "t": 30 + LINE * len(lines), "b": 48},
    )  # fmt: skip
    figure.update_xaxes(gridcolor=grid, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=grid, zeroline=False, automargin=True, ticklabelstandoff=4)
    figure.add_annotation(
        text="<br>".join(lines), align="left", xref="paper", yref="paper", x=0, y=1,
        xanchor="left", yanchor="bottom", yshift=12, showarrow=False, font={"size": 12},
        bordercolor=ink(dark), borderpad=3,
    )  # fmt: skip
    return figure


def log_range(low: float, high: float) -> list[float]:
    """The range of a log axis, as Plotly wants it."""
    return [math.log10(low), math.log10(high)]

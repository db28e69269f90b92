"""A topology with what its links carried: width says bytes, depth of colour says how busy.

One hue from pale to deep, never red to green; a cable nobody used is thin and grey. Hover tells
the numbers, `describe_links` the same in words, `link_rows` as a table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from parallel_core.hardware.topology import Topology
from parallel_core.network import Use
from parallel_core.quantities import bytes_text, time_text
from parallel_core.views.frame import GREY, PAGES, blank, finish, ink
from parallel_core.views.palette import mix
from parallel_core.views.topology_layout import Layout, Line, Point, layout

MOST_RANKS = 256
"""Ranks of the largest topology that is drawn."""

MOST_LINES = 1500
"""Lines of a drawing; of more, the busiest are drawn."""

HEAT = {False: "#3F007D", True: "#E5C8FF"}
"""The deepest colour of a busy link, on light and on dark."""

_LEVELS = 5  # of depth, and of width
_THIN = 1.0
_ROOM = ((40, 9.0), (200, 5.0))  # up to so many lines the thickest is so wide
_CROWDED = 3.5
_TALL = 8.0  # grid steps above which a drawing gets a taller figure
_READ = 16.0  # pixels across from which a disc holds a name


@dataclass(frozen=True)
class _Load:
    """What one line carried, all of its links together; `share` is of the time it was taken."""

    line: Line
    use: Use
    share: float

    @property
    def used(self) -> bool:
        return self.use.messages > 0


def topology_figure(
    topology: Topology,
    uses: Mapping[Hashable, Use] | None = None,
    *,
    span_ns: int = 0,
    badge: str = "",
    hosts: tuple[int, ...] = (),
    dark: bool = False,
) -> go.Figure:
    """The topology; with `uses` (network.link_use) its links carry the heat of `span_ns`.

    `hosts` are those of a Network: host hosts[r] is labelled r.
    """
    figure = blank()
    note = f"{badge or topology}<br>"
    if topology.ranks > MOST_RANKS:
        note += f"{topology.ranks:,} ranks: drawings go up to {MOST_RANKS}"
        return _framed(figure, note, dark)
    drawn = layout(topology)
    loads = _loads(drawn, uses or {}, span_ns)
    if len(loads) > MOST_LINES:
        note += f"the {MOST_LINES:,} busiest of {len(loads):,} links<br>"
        loads = sorted(loads, key=lambda load: -load.use.bytes)[:MOST_LINES]
    note += "width: bytes carried; deeper: busy for more of the time" if uses else "idle"
    _draw_boxes(figure, drawn, dark)
    _draw_lines(figure, loads, dark)
    _draw_hover(figure, topology, loads, span_ns)
    _draw_points(figure, topology, drawn, hosts, dark)
    return _framed(figure, note, dark, height=560 if _extent(drawn)[1] > _TALL else 460)


def describe_links(topology: Topology, uses: Mapping[Hashable, Use], span_ns: int) -> str:
    """The figure in words: the topology, its busiest link, and how many links were idle."""
    links = sum(1 for _ in topology.links())
    about = (
        f"{topology}: {topology.ranks} ranks, {links} links, bisection {topology.bisection}, "
        f"diameter {topology.diameter}."
    )
    if not uses:
        return f"{about} Nothing was sent."
    link, use = max(uses.items(), key=lambda item: (item[1].busy_ns, item[1].bytes))
    queued = f", {time_text(use.waited_ns)} of queueing" if use.waited_ns else ", no queue"
    return (
        f"{about} The busiest link, {_said(topology, link)}, carried {bytes_text(use.bytes)} in "
        f"{use.messages} messages: busy {_share(use, span_ns, 1):.0%} of {time_text(span_ns)}"
        f"{queued}. {links - len(uses)} links carried nothing."
    )


def link_rows(
    topology: Topology, uses: Mapping[Hashable, Use], span_ns: int
) -> list[dict[str, Any]]:
    """A table, most bytes first: link, bytes, messages, share of the time busy, time queued."""
    ordered = sorted(uses.items(), key=lambda item: (-item[1].bytes, str(item[0])))
    return [
        {
            "link": _said(topology, link),
            "bytes": use.bytes,
            "messages": use.messages,
            "busy": _share(use, span_ns, 1),
            "queued_us": use.waited_ns / 1e3,
        }
        for link, use in ordered
    ]


def _loads(drawn: Layout, uses: Mapping[Hashable, Use], span_ns: int) -> list[_Load]:
    loads = []
    for line in drawn.lines:
        total = Use()
        for use in (uses[link] for link in line.links if link in uses):
            total.bytes += use.bytes
            total.messages += use.messages
            total.busy_ns += use.busy_ns
            total.waited_ns += use.waited_ns
        loads.append(_Load(line, total, _share(total, span_ns, len(line.links))))
    return loads


def _share(use: Use, span_ns: int, links: int) -> float:
    """Which part of the time the link (or the mean of several) was taken, 0 to 1."""
    return min(1.0, use.busy_ns / (span_ns * links)) if span_ns else 0.0


def _draw_lines(figure: go.Figure, loads: list[_Load], dark: bool) -> None:
    """One trace for all lines that look the same."""
    most = max((load.use.bytes for load in loads), default=0) or 1
    thick = next((wide for count, wide in _ROOM if len(loads) <= count), _CROWDED)
    alike: dict[tuple[str, float], list[_Load]] = defaultdict(list)
    for load in loads:
        alike[_colour(load, dark), _width(load, most, thick)].append(load)
    for (colour, width), same in sorted(alike.items(), key=lambda item: item[0][1]):
        xs: list[float | None] = []
        ys: list[float | None] = []
        for (x0, y0), (x1, y1) in (s for load in same for s in load.line.segments):
            xs += [x0, x1, None]
            ys += [y0, y1, None]
        figure.add_scatter(
            x=xs, y=ys, mode="lines", line={"color": colour, "width": width}, hoverinfo="skip"
        )


def _colour(load: _Load, dark: bool) -> str:
    if not load.used:
        return GREY[dark]
    level = max(1, round(load.share * _LEVELS))
    return mix(HEAT[dark], PAGES[dark], 0.3 + 0.7 * level / _LEVELS)


def _width(load: _Load, most: int, thick: float) -> float:
    """By bytes; an idle trunk is as thick as it has cables."""
    if not load.used:
        return min(thick, _THIN * len(load.line.links))
    step = round(_LEVELS * load.use.bytes / most)
    return 2 * _THIN + (thick - 2 * _THIN) * step / _LEVELS


def _draw_hover(figure: go.Figure, topology: Topology, loads: list[_Load], span_ns: int) -> None:
    """A spot in the middle of every line that tells its numbers."""
    middles = [load.line.segments[0] for load in loads]
    figure.add_scatter(
        x=[(a[0] + b[0]) / 2 for a, b in middles],
        y=[(a[1] + b[1]) / 2 for a, b in middles],
        mode="markers",
        marker={"size": 12, "opacity": 0},
        hovertext=[_words(topology, load, span_ns) for load in loads],
        hoverinfo="text",
    )


def _words(topology: Topology, load: _Load, span_ns: int) -> str:
    links, use = load.line.links, load.use
    name = _said(topology, links[0])
    if len(links) > 1:
        name = f"{len(links)} cables like {name}"
    if not load.used:
        return f"{name}: idle"
    queued = f", queued {time_text(use.waited_ns)}" if use.waited_ns else ""
    return (
        f"{name}: {bytes_text(use.bytes)} in {use.messages} messages, "
        f"busy {load.share:.0%} of {time_text(span_ns)}{queued}"
    )


def _said(topology: Topology, link: Hashable) -> str:
    return " > ".join(map(topology.name, link)) if isinstance(link, tuple) else str(link)


def _draw_boxes(figure: go.Figure, drawn: Layout, dark: bool) -> None:
    for left, bottom, right, top, name in drawn.boxes:
        figure.add_shape(
            type="rect", x0=left, y0=bottom, x1=right, y1=top, layer="below",
            line={"color": GREY[dark], "width": 1.5},
        )  # fmt: skip
        figure.add_annotation(
            x=left, y=top, text=name, showarrow=False, xanchor="left", yanchor="bottom",
            font={"color": ink(dark), "size": 11},
        )  # fmt: skip


def _draw_points(
    figure: go.Figure, topology: Topology, drawn: Layout, hosts: tuple[int, ...], dark: bool
) -> None:
    """Hosts as discs with their rank, switches as squares."""
    ranks = {host: str(rank) for rank, host in enumerate(hosts)}
    size = _disc(drawn)
    vertices = list(drawn.points)
    kinds = [vertex < topology.ranks for vertex in vertices]
    names = [
        ranks.get(v, drawn.names[v]) if host else drawn.names[v]
        for v, host in zip(vertices, kinds, strict=True)
    ]
    figure.add_scatter(
        x=[drawn.points[v][0] for v in vertices],
        y=[drawn.points[v][1] for v in vertices],
        mode="markers+text" if size > _READ else "markers",
        text=["".join(word[0] for word in n.split()[:-1]) + n.split()[-1] for n in names],
        textfont={"size": 11, "color": ink(dark)},
        marker={
            "size": [size for _ in vertices],
            "symbol": ["circle" if host else "square" for host in kinds],
            "color": PAGES[dark],
            "opacity": 1,
            "line": {"color": ink(dark), "width": 1.5},
        },
        hovertext=[
            f"rank {name}" if host else name for name, host in zip(names, kinds, strict=True)
        ],
        hoverinfo="text",
    )


def _disc(drawn: Layout) -> float:
    """Pixels across of a host, so that neighbours stay apart on a screen of middling width."""
    wide, high = _extent(drawn)
    step = min(480 / (wide + 1), (460 if high > _TALL else 360) / (high + 1))
    return float(min(22.0, max(6.0, 0.6 * step)))


def _extent(drawn: Layout) -> Point:
    """Width and height between the outermost points, in units of a grid step."""
    xs, ys = zip(*drawn.points.values(), strict=True)
    return max(xs) - min(xs), max(ys) - min(ys)


def _framed(figure: go.Figure, note: str, dark: bool, height: int = 460) -> go.Figure:
    finish(figure, note.removesuffix("<br>"), height=height, dark=dark)
    figure.update_xaxes(visible=False)
    return figure.update_yaxes(visible=False, scaleanchor="x", scaleratio=1)

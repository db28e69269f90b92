"""Figures of the machine room: levels of the machine, a ping-pong with its laws, quoted curves.

Pure functions of plain data to Plotly. Whoever calls says what a level, a point and a law is: this
file knows no hardware and no fit.

    levels        one bar a level on a log axis, grouped by what it lies inside of
    ping_pong     points as they were measured, laws dashed over them, half-and-half size marked
    quoted        published bandwidths, dotted, and how far each law is from them
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import plotly.graph_objects as go

from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Kind
from parallel_core.views.frame import Box, add_box, blank, finish, ink, log_range
from parallel_core.views.palette import PHASES

_BYTE_TICKS = [1 << k for k in range(0, 41, 5)]
_DASHES = ("dash", "dashdot")
_SHADES = ("F", "I")


@dataclass(frozen=True, kw_only=True)
class Level:
    """One bar: `value` in the figure's unit, what it lies `inside` of, words to show and say."""

    name: str
    inside: str
    value: float
    words: str
    source: str
    kind: Kind = Kind.QUOTED


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What the bars of `levels` measure: its title, and ticks as (value, words)."""

    title: str
    ticks: tuple[tuple[float, str], ...]


LATENCY = Axis(
    title="until the first byte is there",
    ticks=((1e-9, "1 ns"), (1e-8, "10"), (1e-7, "100"), (1e-6, "1 µs"), (1e-5, "10")),
)
BANDWIDTH = Axis(
    title="bytes a second, one direction",
    ticks=((1e10, "10 G"), (1e12, "1 T"), (1e14, "100 T")),
)
_TIMES = tuple((10.0**k, time_text(10.0 ** (9 + k))) for k in range(-9, 5, 2))
DURATION = Axis(title="time of one message", ticks=_TIMES)
ALL_TO_ALL = Axis(title="least time of the all-to-all", ticks=_TIMES)


def levels(bars: Sequence[Level], axis: Axis, *, badge: str, dark: bool = False) -> go.Figure:
    """A bar a level, near to far from the top, in groups of what they lie inside of."""
    figure = blank()
    values = [bar.value for bar in bars]
    low, high = min(values) / 4, max(values)
    high *= (high / low) ** 0.4  # room for the words after the longest bar
    rows = _rows(bars)
    for y, bar in zip(rows, bars, strict=True):
        hover = "<br>".join([f"{bar.name}: {bar.words}", *textwrap.wrap(bar.source, 52)])
        box = Box(left=low, right=bar.value, y=y, label="", hover=hover, kind=bar.kind)
        add_box(figure, box, log=True, dark=dark)
        figure.add_annotation(
            x=math.log10(bar.value), y=y, text=f" {bar.words}", showarrow=False, xanchor="left",
            font={"size": 12},
        )  # fmt: skip
    for inside, group in groupby(zip(rows, bars, strict=True), key=lambda pair: pair[1].inside):
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=next(group)[0] - 0.9, text=f"<i>{inside}</i>",
            showarrow=False, font={"size": 11},
        )  # fmt: skip
    shown = [(value, words) for value, words in axis.ticks if low <= value <= high]
    figure.update_xaxes(
        type="log", title=_title(axis.title), range=log_range(low, high),
        tickvals=[value for value, _ in shown], ticktext=[words for _, words in shown],
        tickangle=0,
    )  # fmt: skip
    names = [bar.name.replace(", ", ",<br>") for bar in bars]
    figure.update_yaxes(
        tickvals=rows, ticktext=names, range=[rows[-1] + 0.6, -0.5], showgrid=False,
        tickfont={"size": 12},
    )  # fmt: skip
    lines = "<br>".join(textwrap.wrap(badge, 30)) + "<br>"
    return finish(figure, lines.removesuffix("<br>"), height=150 + 34 * rows[-1], dark=dark)


def _rows(bars: Sequence[Level]) -> list[int]:
    """The row of each bar; before every group one is left free for its name."""
    rows: list[int] = []
    for before, bar in zip([None, *bars], bars, strict=False):
        new = before is None or before.inside != bar.inside
        rows.append((rows[-1] if rows else -1) + 1 + new)
    return rows


def describe_levels(bars: Sequence[Level]) -> str:
    """The bars in words."""
    return "; ".join(f"{bar.name} {bar.words}" for bar in bars) + "."


@dataclass(frozen=True, kw_only=True)
class Ping:
    """The messages of one size: seconds, the fastest and slowest tenth, whether it is fitted."""

    bytes: int
    seconds: float
    low: float
    high: float
    fitted: bool = True


@dataclass(frozen=True, kw_only=True)
class Law:
    """A fit: its parameters in words, seconds by bytes, the size at which both halves are equal."""

    name: str
    words: str
    seconds: Callable[[float], float]
    half: float = 0.0


def ping_pong(
    pings: Sequence[Ping], laws: Sequence[Law] = (), *, badge: str, dark: bool = False
) -> go.Figure:
    """Seconds against bytes, both logarithmic; a size that is in no fit is a diamond."""
    figure = blank()
    sizes = [ping.bytes for ping in pings] or [1, 1 << 24]
    low, high = max(min(sizes), 1) / 2, max(sizes) * 2
    xs = [low * (high / low) ** (i / 80) for i in range(81)]
    for law, dash, shade in zip(laws, _DASHES, _SHADES, strict=False):
        colour = PHASES[shade].dark if dark else PHASES[shade].light
        figure.add_scatter(
            x=xs, y=[law.seconds(x) for x in xs], mode="lines", name=f"{law.name}: {law.words}",
            line={"color": colour, "width": 2, "dash": dash}, hoverinfo="name",
        )  # fmt: skip
    for fitted in (True, False):
        _points(figure, [ping for ping in pings if ping.fitted is fitted], fitted, dark)
    for law in laws[:1]:
        _half(figure, law, (low, high), dark)
    figure.update_xaxes(
        type="log",
        title=_title("bytes of a message"),
        range=log_range(low, high),
        **_byte_ticks(high),
    )
    figure.update_yaxes(type="log", title=_title("time of a message"), tickformat="~s", dtick=1,
                        ticksuffix="s")  # fmt: skip
    finish(figure, badge, height=430, dark=dark)
    figure.update_layout(
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top", "font": {"size": 11}},
    )
    return figure.update_layout(margin={"b": 110})


def _points(figure: go.Figure, pings: Sequence[Ping], fitted: bool, dark: bool) -> None:
    if not pings:
        return
    colour = PHASES["P2P"].dark if dark else PHASES["P2P"].light
    above = [max(ping.high - ping.seconds, 0.0) for ping in pings]
    below = [max(ping.seconds - ping.low, 0.0) for ping in pings]
    figure.add_scatter(
        x=[ping.bytes for ping in pings],
        y=[ping.seconds for ping in pings],
        mode="markers",
        name="measured" if fitted else "measured, in no fit",
        marker={
            "size": 11, "color": colour, "symbol": "circle" if fitted else "diamond",
            "line": {"width": 1, "color": ink(dark)},
        },
        error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below,
                 "color": colour, "thickness": 1, "width": 3},
        hovertext=[
            f"{bytes_text(ping.bytes)}: {time_text(1e9 * ping.seconds)}, tenths "
            f"{time_text(1e9 * ping.low)} to {time_text(1e9 * ping.high)}, "
            f"{ping.bytes / ping.seconds / 1e9:.3g} GB/s"
            for ping in pings
        ],
        hoverinfo="text",
    )  # fmt: skip


def _half(figure: go.Figure, law: Law, across: tuple[float, float], dark: bool) -> None:
    low, high = across
    if not low < law.half < high:
        return
    figure.add_vline(x=law.half, line={"color": ink(dark), "width": 1, "dash": "dot"})
    figure.add_annotation(
        x=math.log10(law.half), y=0.02, yref="paper", yanchor="bottom", showarrow=False,
        xanchor="left", text=f" alpha·beta {bytes_text(law.half)}", font={"size": 12},
    )  # fmt: skip


def describe_ping(pings: Sequence[Ping], laws: Sequence[Law] = ()) -> str:
    """The ping-pong in words."""
    lines = [
        f"{bytes_text(ping.bytes)}: {time_text(1e9 * ping.seconds)}"
        + ("." if ping.fitted else ", in no fit.")
        for ping in pings
    ]
    laws_said = [f"{law.name}: {law.words}." for law in laws]
    return "\n\n".join([*lines, *laws_said]) or "Nothing has been measured yet."


def quoted(
    rows: Sequence[Mapping[str, float]],
    laws: Mapping[str, str],
    *,
    badge: str,
    dark: bool = False,
) -> go.Figure:
    """Bus bandwidth by size: "quoted" of every row dotted, and each law (key -> its name) dashed.

    `rows` hold bytes, and bytes/s under "quoted" and under the key of each law.
    """
    figure = blank()
    sizes = [row["bytes"] for row in rows]
    figure.add_scatter(
        x=sizes, y=[row["quoted"] for row in rows], mode="lines+markers", name="quoted",
        line={"color": ink(dark), "width": 1.5, "dash": "dot"},
        marker={"size": 8, "color": "#8A9099", "line": {"color": ink(dark), "width": 1}},
        customdata=[bytes_text(size) for size in sizes],
        hovertemplate="%{customdata}: %{y:.3s}B/s, quoted<extra></extra>",
    )  # fmt: skip
    for (key, name), dash, shade in zip(laws.items(), _DASHES, _SHADES, strict=False):
        off = [
            f"{bytes_text(row['bytes'])}, {100 * (row[key] / row['quoted'] - 1):+.0f} %"
            for row in rows
        ]
        figure.add_scatter(
            x=sizes, y=[row[key] for row in rows], mode="lines", name=name,
            line={"color": PHASES[shade].dark if dark else PHASES[shade].light, "width": 2,
                  "dash": dash},
            customdata=off,
            hovertemplate="%{customdata} of the quoted bandwidth<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="log", title=_title("bytes"), **_byte_ticks(max(sizes)))
    figure.update_yaxes(
        title=_title("bus bandwidth"), tickformat="~s", ticksuffix="B/s", rangemode="tozero"
    )
    finish(figure, badge, height=400, dark=dark)
    return figure.update_layout(
        showlegend=True, margin={"b": 100},
        legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top", "font": {"size": 11}},
    )  # fmt: skip


def _byte_ticks(most: float) -> dict[str, object]:
    shown = [size for size in _BYTE_TICKS if size <= most * 1.5]
    return {"tickvals": shown, "ticktext": [bytes_text(size) for size in shown]}


def _title(text: str) -> dict[str, object]:
    return {"text": text, "font": {"size": 12}}

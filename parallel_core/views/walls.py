"""Figures of the walls: memory against capacity, latencies, what a step is made of.

Pure functions of plain data to Plotly; `describe_memory` says in words what the first one shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.trace import Kind
from parallel_core.views.frame import Box, add_box, add_edge, blank, finish, ink, log_range
from parallel_core.views.palette import TENSORS

_PARTS = {
    "matmul": ("#404040", "#C8C8C8", ""),
    "attention": ("#7C828B", "#8A9099", "/"),
    "rest": ("#C9CDD3", "#4A4F57", ""),
}  # part of a step -> colour on light, on dark, hatch
_HATCH = {"fillmode": "overlay", "solidity": 0.12, "size": 9}


@dataclass(frozen=True)
class Slice:
    """A piece of memory: its name, what it holds (a key of palette.TENSORS), bytes."""

    name: str
    holds: str
    size: float

    @property
    def words(self) -> str:
        """Its name and size."""
        return f"{self.name} {gigabytes(self.size)}"


def gigabytes(size: float) -> str:
    """`size` bytes in words: GB or TB, decimal, three digits.

    >>> gigabytes(120e9), gigabytes(14e12)
    ('120 GB', '14 TB')
    """
    return f"{size / 1e12:.3g} TB" if size >= 1e12 else f"{size / 1e9:.3g} GB"


def memory_bars(
    rows: Mapping[str, Sequence[Slice]], capacity: float, *, device: str, dark: bool = False
) -> go.Figure:
    """One stacked bar per row, in GB, against the memory of one device (`capacity` bytes)."""
    figure = blank()
    widest = max(sum(part.size for part in parts) for parts in rows.values())
    span = 1.06 * max(widest, capacity) / 1e9
    for y, parts in enumerate(rows.values()):
        start = 0.0
        for part in parts:
            end = start + part.size / 1e9
            box = Box(left=start, right=end, y=y, label="", hover=part.words, holds=part.holds)
            _name(figure, part, box, _beside(start, end, capacity / 1e9), dark=dark)
            add_edge(figure, box, dark=dark)
            start = end
    figure.update_layout(barmode="overlay", uniformtext={"mode": "hide", "minsize": 10})
    figure.add_vline(x=capacity / 1e9, line={"color": ink(dark), "width": 3})
    figure.add_annotation(
        x=capacity / 1e9, y=-0.62, xanchor="left" if capacity / 1e9 < span / 2 else "right",
        text=f" one {device}: {gigabytes(capacity)} ", showarrow=False,
    )  # fmt: skip
    figure.update_xaxes(title="GB (1e9 bytes)", range=[0, span])
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=list(rows), range=[len(rows) - 0.5, -0.85]
    )
    badge = "model: parameters x bytes, formulas in walls/memory.py"
    return finish(figure, badge, height=160 + 86 * len(rows), dark=dark)


def _name(
    figure: go.Figure, part: Slice, box: Box, room: tuple[float, float], *, dark: bool
) -> None:
    """A box that is filled, with its words in `room`.

    Bars hold both, for Plotly turns words that a bar is too narrow for, as on a phone, or leaves
    them out.
    """
    place = {"y": [box.y], "orientation": "h", "width": 0.68}
    pattern = {"shape": TENSORS[part.holds].hatch} if part.holds in TENSORS else {}
    figure.add_bar(
        base=[box.left], x=[box.right - box.left], hovertext=box.hover, hoverinfo="text",
        name=box.hover, marker={"color": box.fill(dark), "pattern": pattern, "line": {"width": 0}},
        **place,
    )  # fmt: skip
    figure.add_bar(
        base=[room[0]], x=[room[1] - room[0]], hoverinfo="skip", name=part.name,
        text=f"{part.name}<br>{gigabytes(part.size)}", textposition="inside",
        insidetextanchor="middle", insidetextfont={"color": box.ink(dark), "size": 12},
        marker={"color": "rgba(0,0,0,0)", "line": {"width": 0}}, **place,
    )  # fmt: skip


def _beside(left: float, right: float, line: float) -> tuple[float, float]:
    """From where to where a box is free: its larger part where the capacity `line` cuts it."""
    if not left < line < right:
        return left, right
    return (left, line) if line - left > right - line else (line, right)


def describe_memory(rows: Mapping[str, Sequence[Slice]], capacity: float, *, device: str) -> str:
    """The memory figure in words."""
    lines = []
    for name, parts in rows.items():
        total = sum(part.size for part in parts)
        fits = (
            "fits one" if total <= capacity else f"{total / capacity:,.3g} times the memory of one"
        )
        pieces = ", ".join(part.words for part in parts)
        lines.append(f"{name}: {gigabytes(total)}, {fits} {device} ({pieces}).")
    return "\n\n".join(lines)


def ladder(latencies: Mapping[str, int], *, badge: str, dark: bool = False) -> go.Figure:
    """Latency in cycles per level of memory, on a log scale; quoted figures."""
    figure = blank()
    for y, (name, cycles) in enumerate(latencies.items()):
        box = Box(left=1, right=cycles, y=y, label=f"{cycles}", hover=f"{name}: {cycles} cycles",
                  kind=Kind.QUOTED)  # fmt: skip
        add_box(figure, box, log=True, dark=dark)
    count = len(latencies)
    figure.update_xaxes(type="log", title="cycles until a load arrives", range=log_range(1, 1000))
    figure.update_yaxes(
        tickvals=list(range(count)), ticktext=list(latencies), range=[count - 0.5, -0.5]
    )
    return finish(figure, badge, height=110 + 44 * count, dark=dark)


def step_parts(
    models: Mapping[str, Mapping[str, float]], *, badge: str, dark: bool = False
) -> go.Figure:
    """Which share of a step each kind of work takes: per measured model its parts in seconds."""
    figure = blank()
    for part, (light, night, hatch) in _PARTS.items():
        shares = [100 * seconds[part] / sum(seconds.values()) for seconds in models.values()]
        figure.add_bar(
            y=list(models), x=shares, orientation="h", name=part, textposition="inside",
            marker={"color": night if dark else light, "pattern": {**_HATCH, "shape": hatch},
                    "line": {"color": ink(dark), "width": 1}},
            text=[f"{part} {share:.0f} %" for share in shares], insidetextanchor="middle",
            hovertemplate=f"{part} %{{x:.1f}} %<extra>%{{y}}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="% of the time in a training step's ops", range=[0, 100])
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(barmode="stack")
    return finish(figure, badge, height=120 + 48 * len(models), dark=dark)

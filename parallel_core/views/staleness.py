"""How stale gradients were when a server applied them: a histogram a worker.

worker 0   ▁▃█▃        a bar: the share of this worker's updates that were k versions old
worker 3          ▃█▃  dashed: simulated; solid: measured; the triangle is the mean
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from parallel_core.data.parameter_server import Staleness
from parallel_core.views.chart_frame import colour, framed
from parallel_core.views.frame import PAGES, ink
from parallel_core.views.palette import PHASES, mix

MOST_WORKERS = 8
"""Workers with a row of their own; the others are counted in the mean only."""

_HEIGHT, _HALF = 0.72, 0.4


def shares(found: Staleness, worker: int) -> dict[int, float]:
    """Staleness -> the share of the worker's settled updates that had it."""
    counts = {age: each[worker] for age, each in found.histogram.items() if each[worker]}
    return {age: count / sum(counts.values()) for age, count in counts.items()}


def histogram(
    simulated: Staleness,
    measured: Staleness | None,
    *,
    names: Mapping[int, str],
    badges: Sequence[str],
    dark: bool = False,
) -> go.Figure:
    """A row a worker, named by `names`: measured bars under simulated outlines."""
    figure = go.Figure()
    workers = list(names)[:MOST_WORKERS]
    filled = simulated if measured is None else measured
    plain = colour(PHASES["F"], dark)
    fill = mix(plain, PAGES[dark], 0.45) if measured is None else plain
    for row, worker in enumerate(workers):
        parts = shares(filled, worker)
        figure.add_bar(
            x=list(parts), y=[_HEIGHT * share for share in parts.values()],
            base=[_floor(workers, row)] * len(parts), width=2 * _HALF, name=names[worker],
            marker={"color": fill, "line": {"width": 0}}, showlegend=False,
            hovertext=[
                f"{names[worker]}: {share:.0%} of its updates {stale} versions old"
                for stale, share in parts.items()
            ],
            hoverinfo="text",
        )  # fmt: skip
    _outlines(figure, simulated, workers, dark)
    for name, found, symbol in (
        ("mean, simulated", simulated, "triangle-up-open"),
        ("mean, measured", measured, "triangle-up"),
    ):
        if found is not None:
            figure.add_scatter(
                x=[found.by_worker[worker] for worker in workers],
                y=[_floor(workers, row) - 0.07 for row in range(len(workers))],
                mode="markers", name=name,
                marker={"symbol": symbol, "size": 10, "color": ink(dark)},
                hovertemplate="%{x:.2f} versions<extra>" + name + "</extra>",
            )  # fmt: skip
    framed(figure, badges, height=150 + 74 * len(workers), dark=dark)
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title="versions old when applied", rangemode="tozero", tickformat="d")
    return figure.update_yaxes(
        tickvals=[_floor(workers, row) + 0.3 for row in range(len(workers))],
        ticktext=[names[worker] for worker in workers],
        range=[-0.2, len(workers) - 0.1], showgrid=False,
    )  # fmt: skip


def _floor(workers: Sequence[int], row: int) -> float:
    """Where a row's bars stand; the first worker is on top."""
    return float(len(workers) - 1 - row)


def _outlines(figure: go.Figure, simulated: Staleness, workers: Sequence[int], dark: bool) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for row, worker in enumerate(workers):
        low = _floor(workers, row)
        for stale, share in shares(simulated, worker).items():
            high, left, right = low + _HEIGHT * share, stale - _HALF, stale + _HALF
            x += [left, right, right, left, left, None]
            y += [low, low, high, high, low, None]
    figure.add_scatter(
        x=x, y=y, mode="lines", name="simulated", hoverinfo="skip",
        line={"color": ink(dark), "width": 1.5, "dash": "dash"},
    )  # fmt: skip


def account(simulated: Staleness, measured: Staleness | None, names: Mapping[int, str]) -> str:
    """The histogram in words, one line a worker and one for all."""
    lines = []
    for worker, name in names.items():
        ran = "" if measured is None else f", measured {_mean(measured.by_worker[worker])}"
        lines.append(f"- {name}: mean {_mean(simulated.by_worker[worker])} simulated{ran}.")
    ran = "" if measured is None else f", measured {measured.mean:.2f}"
    lines.append(f"- All settled updates: mean {simulated.mean:.2f} simulated{ran}.")
    return "\n".join(lines)


def _mean(value: float | None) -> str:
    return "none settled" if value is None else f"{value:.2f}"

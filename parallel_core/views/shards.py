"""Shard bench figures: what each ZeRO stage leaves on a rank, and who shares which shard.

    bytes   | | | |    | | | |    , , , ,    . . . .     one bar a rank, stacked by kind
            plain DP   ZeRO-1     ZeRO-2     ZeRO-3      dashed: predicted; solid: measured

Above a bar stand its peaks within a step: an open diamond as predicted, a filled one as measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.outline import STATE
from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.views.chart_frame import byte_ticks, colour, framed
from parallel_core.views.frame import PAGES, ink
from parallel_core.views.hues import hues
from parallel_core.views.palette import TENSORS, contrast, mix

MOST_RANKS = 8
"""Bars a stage; the others are alike but for nothing, since padding makes shards equal."""

MOST_COLUMNS, MOST_ROWS = 16, 8
"""Shards and copies that the grid draws."""

_HALF = 0.42


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One ZeRO stage of a plan: bytes by kind, one number a rank, between steps; peaks within one.

    `measured` and `measured_peak` are None until that stage has run.
    """

    zero: int
    predicted: Mapping[str, Sequence[int]]
    peak: Sequence[int]
    measured: Mapping[str, Sequence[int]] | None = None
    measured_peak: Sequence[int] | None = None

    @property
    def name(self) -> str:
        """How the axis names it."""
        return f"ZeRO-{self.zero}" if self.zero else "plain DP"

    @property
    def ranks(self) -> int:
        """Bars that are drawn."""
        return min(len(self.peak), MOST_RANKS)


def stage_bars(
    stages: Sequence[Stage],
    *,
    badges: Sequence[str],
    capacity: float | None = None,
    dark: bool = False,
) -> go.Figure:
    """The stages side by side, one bar a rank; `capacity` bytes of a rank are a line."""
    figure = go.Figure()
    places = list(_places(stages))
    for kind in STATE:
        _kind_bars(figure, places, kind, dark)
    _outlines(figure, places, dark)
    _peaks(figure, places, dark)
    most = float(
        max([1, *(max(stage.peak) for stage in stages), *([capacity] if capacity else [])])
    )
    if capacity:
        figure.add_hline(y=capacity, line={"color": ink(dark), "width": 3})
        figure.add_annotation(
            x=1, xref="paper", y=capacity, text=f"capacity {bytes_text(capacity)}",
            showarrow=False, xanchor="right", yanchor="bottom", bgcolor=PAGES[dark],
        )  # fmt: skip
    framed(figure, badges, height=440, dark=dark)
    width = stages[0].ranks + 1
    figure.update_layout(barmode="stack", bargap=0.1)
    figure.update_xaxes(
        tickvals=[at * width + (width - 2) / 2 for at in range(len(stages))],
        ticktext=[stage.name for stage in stages],
        range=[-0.9, len(stages) * width - 1.1],
    )
    return figure.update_yaxes(range=[0, 1.12 * most], **byte_ticks(most))


def _places(stages: Sequence[Stage]) -> Iterator[tuple[float, Stage, int]]:
    """Where along x each rank of each stage stands."""
    for at, stage in enumerate(stages):
        for rank in range(stage.ranks):
            yield at * (stages[0].ranks + 1) + rank, stage, rank


def _kind_bars(
    figure: go.Figure, places: Sequence[tuple[float, Stage, int]], kind: str, dark: bool
) -> None:
    plain, fills, sizes, words = colour(TENSORS[kind], dark), [], [], []
    for _, stage, rank in places:
        ran = stage.measured is not None
        size = (stage.measured or stage.predicted)[kind][rank]
        fills.append(plain if ran else mix(plain, PAGES[dark], 0.45))
        sizes.append(size)
        said = f"measured {size:,} bytes, " if ran else ""
        words.append(
            f"{stage.name}, rank {rank}, {TENSORS[kind].meaning}: {said}predicted "
            f"{stage.predicted[kind][rank]:,} bytes"
        )
    figure.add_bar(
        x=[x for x, _, _ in places], y=sizes, width=2 * _HALF - 0.1, name=TENSORS[kind].meaning,
        marker={"color": fills, "line": {"width": 0}}, hovertext=words, hoverinfo="text",
        showlegend=False,
    )  # fmt: skip
    figure.add_scatter(
        x=[None], y=[None], mode="markers", name=TENSORS[kind].meaning,
        marker={"symbol": "square", "size": 12, "color": plain},
    )  # fmt: skip


def _outlines(figure: go.Figure, places: Sequence[tuple[float, Stage, int]], dark: bool) -> None:
    """A dashed box a kind, around what was predicted."""
    x: list[float | None] = []
    y: list[float | None] = []
    for at, stage, rank in places:
        low = 0.0
        for kind in STATE:
            high = low + stage.predicted[kind][rank]
            left, right = at - _HALF, at + _HALF
            x += [left, right, right, left, left, None]
            y += [low, low, high, high, low, None]
            low = high
    figure.add_scatter(
        x=x, y=y, mode="lines", name="predicted", hoverinfo="skip",
        line={"color": ink(dark), "width": 1.5, "dash": "dash"},
    )  # fmt: skip


def _peaks(figure: go.Figure, places: Sequence[tuple[float, Stage, int]], dark: bool) -> None:
    """The most within a step: what the plan allows, and what was reached."""
    ran = [(x, s.name, s.measured_peak[r]) for x, s, r in places if s.measured_peak is not None]
    plans = [(x, stage.name, stage.peak[rank]) for x, stage, rank in places]
    for name, dots, symbol in (
        ("peak, predicted", plans, "diamond-open"),
        ("peak, measured", ran, "diamond"),
    ):
        figure.add_scatter(
            x=[x for x, _, _ in dots], y=[size for _, _, size in dots], mode="markers", name=name,
            marker={"symbol": symbol, "size": 11 if "open" in symbol else 6, "color": ink(dark)},
            hovertext=[f"{stage}: {name} {size:,} bytes" for _, stage, size in dots],
            hoverinfo="text", visible=True if dots else "legendonly", showlegend=bool(dots),
        )  # fmt: skip


def account(stages: Sequence[Stage]) -> str:
    """The bars in words, one sentence a stage, of its fullest rank."""
    lines = []
    for stage in stages:
        parts = ", ".join(
            f"{TENSORS[kind].meaning} {bytes_text(max(stage.predicted[kind]))}" for kind in STATE
        )
        whole = max(map(sum, zip(*stage.predicted.values(), strict=True)))
        ran = "not run yet"
        if stage.measured is not None:
            same = stage.measured == stage.predicted
            ran = "measured the same on every rank" if same else "measured otherwise"
        lines.append(
            f"- {stage.name}: {bytes_text(whole)} between steps ({parts}), at most "
            f"{bytes_text(max(stage.peak))} within one; {ran}."
        )
    return "\n".join(lines)


def readable(fill: str) -> str:
    """Black or white, whichever reads better on the fill."""
    return max(("#000000", "#FFFFFF"), key=lambda letters: contrast(letters, fill))


def shard_grid(plan: Plan, *, dark: bool = False) -> go.Figure:
    """Which rank keeps which shard: a row a copy, a column a shard; equal colours hold the same.

    At most MOST_ROWS copies of MOST_COLUMNS shards are drawn.
    """
    figure = go.Figure()
    columns, rows = plan.shards, plan.world_size // plan.shards
    tints = [pair[dark] for pair in hues(columns)]
    for rank in range(plan.world_size):
        replica, shard = divmod(rank, columns)
        if replica >= MOST_ROWS or shard >= MOST_COLUMNS:
            continue
        figure.add_shape(
            type="rect", x0=shard - 0.46, x1=shard + 0.46, y0=replica - 0.42, y1=replica + 0.42,
            fillcolor=tints[shard], line={"color": ink(dark), "width": 1},
        )  # fmt: skip
        figure.add_annotation(
            x=shard, y=replica, text=f"r{rank}", showarrow=False,
            font={"color": readable(tints[shard]), "size": 12},
        )  # fmt: skip
    wide, high = min(columns, MOST_COLUMNS), min(rows, MOST_ROWS)
    badge = f"{plan.layout}: {rows} x {columns}, a copy a row, a shard a column"
    if (wide, high) != (columns, rows):
        badge += f"; the first {high} x {wide} are drawn"
    framed(figure, [badge], height=90 + 40 * high, dark=dark)
    figure.update_layout(margin={"b": 40}, showlegend=False)
    figure.update_xaxes(
        tickvals=list(range(wide)), ticktext=[f"shard {i}" for i in range(wide)],
        range=[-0.6, wide - 0.4], showgrid=False,
    )  # fmt: skip
    return figure.update_yaxes(
        tickvals=list(range(high)), ticktext=[f"copy {i}" for i in range(high)],
        range=[high - 0.5, -0.5], showgrid=False,
    )  # fmt: skip


def describe_grid(plan: Plan) -> str:
    """The grid in words."""
    mesh, rows = plan.mesh, plan.world_size // plan.shards
    group = ", ".join(map(str, mesh.group(0, plan.shard_axis)[:MOST_COLUMNS]))
    if rows == 1:
        return f"Every rank keeps another of the {plan.shards} shards: ranks {group}."
    same = ", ".join(map(str, mesh.group(0, "replica")[:MOST_ROWS]))
    return (
        f"{rows} copies of {plan.shards} shards: ranks {group} share the first copy, and "
        f"ranks {same} hold the same shard."
    )

"""What a policy wins in memory and costs in time: its peak, and its step against keeping all.

    peak   *            keep all: most memory, no extra time
           |   o        selective
           |      o     full: the forward a second time
           +------------ a step, times that of keeping all

Hollow and dashed: predicted peak, modelled step. Solid: measured peak, the median of the run's
steps, and a bar from its shortest to its longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import plotly.graph_objects as go

from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Trace
from parallel_core.views.chart_frame import byte_ticks, framed
from parallel_core.views.frame import ink

ALL = "keep all"
NOT_YET = "not run yet"
_KEEP: dict[str, Any] = {"recompute": "none", "recompute_every": 1, "offload": False}
POLICIES: dict[str, dict[str, Any]] = {
    ALL: _KEEP,
    "selective": {**_KEEP, "recompute": "selective"},
    "full, every 2nd layer": {**_KEEP, "recompute": "full", "recompute_every": 2},
    "full": {**_KEEP, "recompute": "full"},
    "offload": {**_KEEP, "offload": True},
}
"""Name -> the fields of a plan that make it."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run measured: the most bytes on a rank, in all and of activations; milliseconds of
    its steps on both clocks, the first (which warms up) left out; loss and gradient norm of each
    step."""

    peak: int
    activations: int
    wall: Sequence[float]
    own: Sequence[float]
    sums: Sequence[tuple[float, float]]
    badge: str = ""


@dataclass(frozen=True, kw_only=True)
class Price:
    """A policy of a plan: predicted peak of the fullest rank, in all and of activations; its
    modelled step, nanoseconds; FLOPs; and its run."""

    name: str
    plan: Plan
    peak: int
    activations: int
    modelled: int
    flops: float
    ran: Ran | None = None


def steps_ms(trace: Trace) -> list[float]:
    """Milliseconds of each step but the first."""
    return [trace.only(step).makespan / 1e6 for step in trace.steps[1:] or trace.steps]


def times(mine: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Median, shortest and longest step as multiples of the median of `base`."""
    unit = median(base)
    return median(mine) / unit, min(mine) / unit, max(mine) / unit


def won(prices: Sequence[Price]) -> list[dict[str, str]]:
    """The bytes as a table, a row a policy: the most on a rank, and of activations alone."""
    return [
        {
            "policy": price.name,
            "peak of a rank": bytes_text(price.peak),
            "measured": bytes_text(price.ran.peak) if price.ran else NOT_YET,
            "activations": _less(price, prices[0]),
        }
        for price in prices
    ]


def paid(prices: Sequence[Price]) -> list[dict[str, str]]:
    """The time as a table, a row a policy: a step, as a multiple of keeping all."""
    base = prices[0]
    return [
        {
            "policy": price.name,
            "FLOPs": f"{price.flops / base.flops:.2f} x",
            "modelled": f"{time_text(price.modelled)}, {price.modelled / base.modelled:.2f} x",
            "wall clock": _clock(price, base, "wall"),
            "own device": _clock(price, base, "own"),
        }
        for price in prices
    ]


def _less(price: Price, base: Price) -> str:
    size = price.ran.activations if price.ran else price.activations
    whole = base.ran.activations if price.ran and base.ran else base.activations
    less = f", {whole / size:.2f} times less" if price is not base and size < whole else ""
    return bytes_text(size) + less


def _clock(price: Price, base: Price, clock: str) -> str:
    if price.ran is None:
        return NOT_YET
    mine = getattr(price.ran, clock)
    words = time_text(median(mine) * 1e6)
    if base.ran is None or price is base:
        return f"{words} ({min(mine):.0f} to {max(mine):.0f} ms)"
    ratio, low, high = times(mine, getattr(base.ran, clock))
    return f"{words}, {ratio:.2f} x ({low:.2f} to {high:.2f})"


def same_sums(prices: Sequence[Price]) -> bool | None:
    """Whether every run's losses and gradient norms are equal to the bit; None with one run."""
    told = [tuple(price.ran.sums) for price in prices if price.ran]
    shared = min(map(len, told), default=0)
    return None if len(told) < 2 else len({one[:shared] for one in told}) == 1


def room_for(prices: Sequence[Price], capacity: float) -> list[Price]:
    """The policies whose predicted peak fits, the cheapest modelled step first."""
    return sorted((p for p in prices if p.peak <= capacity), key=lambda price: price.modelled)


def trade(
    prices: Sequence[Price], *, clock: str = "own", capacity: float | None = None,
    dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Peak against step time, a dot a policy; `clock` of the runs is "own" or "wall"."""
    figure, base = go.Figure(), prices[0]
    most = max([p.peak for p in prices] + ([int(capacity)] if capacity else []))
    model = {price.name: price.modelled / base.modelled for price in prices}
    _dots(figure, model, {p.name: p.peak for p in prices}, ran=False, dark=dark)
    ran = [price for price in prices if price.ran]
    if ran and base.ran:
        found = {
            p.name: times(getattr(p.ran, clock), getattr(base.ran, clock)) for p in ran if p.ran
        }
        peaks = {p.name: p.ran.peak for p in ran if p.ran}
        _dots(figure, found, peaks, ran=True, dark=dark)
    if capacity:
        figure.add_hline(y=capacity, line={"color": ink(dark), "width": 3})
    badges = [f"hollow: predicted peak, modelled step, {base.plan.layout}"]
    if ran and base.ran:
        which = "own-device replay" if clock == "own" else "wall clock"
        badges += [f"solid: measured peak; median step by {which}, bars its shortest to longest"]
        badges += [base.ran.badge]
    framed(figure, badges, height=380, dark=dark)
    figure.update_xaxes(title="a step, times that of keeping all")
    return figure.update_yaxes(range=[0, 1.15 * most], **byte_ticks(most))


def _dots(
    figure: go.Figure,
    along: Mapping[str, Any],
    peaks: Mapping[str, int],
    *,
    ran: bool,
    dark: bool,
) -> None:
    names = list(along)
    x = [along[name][0] if ran else along[name] for name in names]
    bars = {
        "type": "data", "symmetric": False, "color": ink(dark), "thickness": 1,
        "array": [along[n][2] - along[n][0] for n in names] if ran else [],
        "arrayminus": [along[n][0] - along[n][1] for n in names] if ran else [],
    }  # fmt: skip
    figure.add_scatter(
        x=x, y=[peaks[name] for name in names], mode="markers" if ran else "markers+text",
        text=names, textposition=_sides(peaks, names), cliponaxis=False,
        name="measured" if ran else "predicted",
        marker={"size": 10 if ran else 15, "color": ink(dark),
                "symbol": "circle" if ran else "circle-open-dot"},
        error_x=bars if ran else None,
        hovertext=[f"{name}: {bytes_text(peaks[name])}, {at:.2f} times the step" for name, at in
                   zip(names, x, strict=True)], hoverinfo="text",
    )  # fmt: skip


def _sides(peaks: Mapping[str, int], names: Sequence[str]) -> list[str]:
    """Names above and below in turn, from the highest peak down, so that neighbours stay apart."""
    order = sorted(names, key=lambda name: -peaks[name])
    return ["bottom center" if order.index(name) % 2 else "top center" for name in names]


def account(prices: Sequence[Price]) -> str:
    """The figure in words, a line a policy."""
    base = prices[0]
    lines = []
    for price in prices:
        step = price.modelled / base.modelled
        line = f"- {price.name}: peak {bytes_text(price.peak)}, modelled step {step:.2f} times"
        if price.ran:
            line += f"; measured peak {bytes_text(price.ran.peak)}"
            if base.ran:
                ratio, low, high = times(price.ran.own, base.ran.own)
                line += f", own-device step {ratio:.2f} times ({low:.2f} to {high:.2f})"
        lines.append(line + ".")
    return "\n".join(lines)

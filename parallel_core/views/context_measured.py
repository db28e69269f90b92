"""Where pass-Q and pass-KV cross: as measured here, as the rules say, and as it was published.

% new |            . ' smaller hop      a dot and its whisker    measured, one number of kv heads
      |        o '                      lines                    the rules, at the rates measured
      |    o '                          grey diamond             the published times
      +--------- kv heads / heads
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from parallel_core.published import table
from parallel_core.views.chart_frame import colour, framed
from parallel_core.views.context_quoted import META, published
from parallel_core.views.frame import GREY, ink
from parallel_core.views.palette import PHASES

Report = Mapping[str, Any]
"""What `shardlab bench cp --crossover --json` prints."""

RULES = {
    "q_is_smaller": ("q is the smaller hop", "dot"),
    "q_sends_less": ("fewer bytes in all", "dash"),
    "rule": ("the published rule", "solid"),
    "rule_with_the_way_home": ("it, with the way home", "dashdot"),
}
"""A share of a group of the report -> its name, and how its line is drawn."""


def groups(report: Report) -> list[dict[str, Any]]:
    """One of each number of key/value heads, fewest first."""
    found = [case["group"] for case in report["settings"]["cases"] if "group" in case]
    return sorted(found, key=lambda each: each["kv_heads"])


def ratios(report: Report, kv_heads: int) -> list[dict[str, Any]]:
    """(share, pass-Q's time over pass-KV's with its interval) of one number of key/value heads."""
    return [
        {"share": 100 * case["share"], **case["ratio"]}
        for case in report["settings"]["cases"]
        if case["kv_heads"] == kv_heads
    ]


def add_ratios(figure: go.Figure, report: Report, *, dark: bool) -> go.Figure:
    """The measured points of the fewest key/value heads, in the chart of the printed ones."""
    group = groups(report)[0]
    some = ratios(report, group["kv_heads"])
    name = f"measured, {group['kv_heads']} of {group['heads']} heads"
    figure.add_scatter(
        x=[p["share"] for p in some], y=[p["median"] for p in some], mode="markers+lines",
        name=name, hoverinfo="text",
        hovertext=[f"{name}: {p['share']:.3g} % new, {p['median']:.3f}" for p in some],
        line={"width": 1, "color": _shade(dark)},
        marker={"symbol": "square", "size": 9, "color": _shade(dark)},
        error_y={"type": "data", "symmetric": False, "thickness": 1, "width": 2,
                 "array": [p["high"] - p["median"] for p in some],
                 "arrayminus": [p["median"] - p["low"] for p in some]},
    )  # fmt: skip
    return figure.update_yaxes(tickvals=[0.1, 0.2, 0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 5, 10])


def _shade(dark: bool) -> str:
    return colour(PHASES["F"], dark)


def borders(report: Report, *, badge: str, dark: bool = False) -> go.Figure:
    """The crossing by the share of key/value heads, over the rules."""
    figure, found = go.Figure(), groups(report)
    x = [each["kv_heads"] / each["heads"] for each in found]
    for key, (name, dash) in RULES.items():
        figure.add_scatter(
            x=x, y=[each[key] for each in found], mode="lines", name=name, hoverinfo="name+y",
            line={"color": ink(dark), "width": 1.5, "dash": dash},
        )  # fmt: skip
    at = [each["crosses"] for each in found]
    figure.add_scatter(
        x=x, y=[each["median"] for each in at], mode="markers", name="measured: times cross",
        hoverinfo="text", hovertext=[_says(each) for each in found],
        marker={"size": 13, "color": _shade(dark)},
        error_y={"type": "data", "symmetric": False, "thickness": 1.5, "width": 5,
                 "array": [each["high"] - each["median"] for each in at],
                 "arrayminus": [each["median"] - each["low"] for each in at]},
    )  # fmt: skip
    figure.add_scatter(
        x=[META.kv_heads / META.heads], y=[quoted_crossing()], mode="markers",
        name="quoted: H100, 400 Gb/s", hoverinfo="name+y",
        marker={"symbol": "diamond", "size": 11, "color": GREY[dark],
                "line": {"color": ink(dark), "width": 1.5}},
    )  # fmt: skip
    ticks = sorted({*x, META.kv_heads / META.heads})
    figure.update_xaxes(
        type="log", title="key/value heads / heads", tickvals=ticks,
        ticktext=["1" if tick == 1 else f"1/{1 / tick:.3g}" for tick in ticks],
    )  # fmt: skip
    figure.update_yaxes(
        type="log", title="times cross at, % new", tickvals=[1, 2, 5, 10, 20, 50, 100]
    )
    return framed(figure, [badge, f"quoted: {table('cp_table4').source}"], height=420, dark=dark)


def quoted_crossing() -> float:
    """Per cent of new tokens at which the printed times cross, straight between two rows."""
    points = sorted(published(), key=lambda point: point.share)
    for one, two in pairwise(points):
        if one.ratio < 1 <= two.ratio:
            part = -math.log(one.ratio) / (math.log(two.ratio) - math.log(one.ratio))
            return float(one.share * (two.share / one.share) ** part)
    raise AssertionError("the printed times cross")


def _says(group: Mapping[str, Any]) -> str:
    at = group["crosses"]
    return (
        f"{group['kv_heads']} of {group['heads']} heads: {at['median']:.3g} %"
        f" ({at['low']:.3g} to {at['high']:.3g})"
    )


def in_words(report: Report) -> str:
    """The measured crossings in a sentence."""
    parts = [
        f"{_says(each)}; the rule says {each['rule']:.3g} %, with the way home"
        f" {each['rule_with_the_way_home']:.3g} %"
        for each in groups(report)
    ]
    return f"The times cross at these shares of new tokens. {'. '.join(parts)}."


def rows(report: Report) -> list[dict[str, str]]:
    """Every case as a table: bytes exactly, times with their doubt."""
    return [_row(case) for case in report["settings"]["cases"]]


def _row(case: Mapping[str, Any]) -> dict[str, str]:
    ms: Sequence[Mapping[str, float]] = [case["ms"][side] for side in ("pass-kv", "pass-q")]
    over_kv, over_q = (f"{each['median']:.3g} ± {each['spread'] / 2:.2g} ms" for each in ms)
    return {
        "kv heads": str(case["kv_heads"]),
        "new": f"{100 * case['share']:.3g} %",
        "a hop of kv": f"{case['hop_bytes']['pass-kv']:,} bytes",
        "a hop of q": f"{case['hop_bytes']['pass-q']:,} bytes",
        "pass-KV": over_kv,
        "pass-Q": over_q,
    }

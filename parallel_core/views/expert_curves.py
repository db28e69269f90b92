"""What routing does over the steps of a run: how uneven the ranks are, what share is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from parallel_core.views.chart_frame import colour, framed, safe, step_axis
from parallel_core.views.frame import ink
from parallel_core.views.palette import PHASES

_LOOKS = (("F", "circle", "solid"), ("I", "square", "dashdot"), ("collective", "diamond", "dot"))

Steps = Sequence[Mapping[str, Any]]
"""`report["experts"]["steps"]` of a run."""


def imbalance(runs: Mapping[str, Steps], badges: Sequence[str], *, dark: bool = False) -> go.Figure:
    """The fullest rank over the mean, of the worst layer, step by step; 1 is even."""
    drawn = _lines(runs, "rank_imbalance", "%{y:.3g} times the mean", dark)
    drawn.add_hline(y=1, line={"color": ink(dark), "width": 1, "dash": "dash"})
    drawn.update_yaxes(title="fullest rank / mean", rangemode="tozero")
    return framed(drawn, badges, height=320, dark=dark)


def dropped(runs: Mapping[str, Steps], badges: Sequence[str], *, dark: bool = False) -> go.Figure:
    """Choices that no expert took, per cent of all, step by step."""
    shares = {
        name: [{**s, "share": 100 * s["dropped"] / max(s["asked"], 1)} for s in steps]
        for name, steps in runs.items()
    }
    drawn = _lines(shares, "share", "%{y:.3g} % dropped", dark)
    drawn.update_yaxes(title="dropped choices (%)", rangemode="tozero")
    return framed(drawn, badges, height=280, dark=dark)


def _lines(runs: Mapping[str, Steps], field: str, hover: str, dark: bool) -> go.Figure:
    drawn = go.Figure()
    for at, (name, steps) in enumerate(runs.items()):
        phase, symbol, dash = _LOOKS[at % len(_LOOKS)]
        drawn.add_scatter(
            x=[step["step"] for step in steps],
            y=[step[field] for step in steps],
            name=safe(name),
            mode="lines+markers",
            line={"color": colour(PHASES[phase], dark), "dash": dash},
            marker={"symbol": symbol, "size": 7},
            hovertemplate=f"step %{{x}}: {hover}",
        )
    return step_axis(drawn)


def in_words(name: str, steps: Steps) -> str:
    """A run's imbalance and drops, first and last."""
    first, half = steps[0], steps[len(steps) // 2 :]
    late = sum(step["rank_imbalance"] for step in half) / len(half)
    said = (
        f"{name}: the fullest rank has {first['rank_imbalance']:.2f} times the mean at first and "
        f"{late:.2f} in the last half of the steps"
    )
    lost = sum(step["dropped"] for step in steps)
    share = 100 * lost / max(sum(step["asked"] for step in steps), 1)
    return f"{said}; {share:.1f} % of choices are dropped." if lost else f"{said}; none is dropped."

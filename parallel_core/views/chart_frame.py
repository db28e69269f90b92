"""What the charts of a run share: badge wrapped above, legend below, axes in round bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from parallel_core.quantities import bytes_text
from parallel_core.views.frame import finish, safe
from parallel_core.views.palette import Shade

__all__ = ["byte_ticks", "colour", "framed", "safe", "step_axis"]

_FEW = 8  # steps up to which a chart as wide as a phone has room for a tick each


def framed(figure: go.Figure, badges: Sequence[str], *, height: int, dark: bool) -> go.Figure:
    """The common frame, the legend below."""
    finish(figure, badges, height=height, dark=dark, grows=True)
    return figure.update_layout(
        template=go.layout.Template(),
        showlegend=True,
        legend={
            "orientation": "h",
            "traceorder": "normal",
            "x": 0,
            "y": 0,
            "yanchor": "bottom",
            "yref": "container",
        },
        margin={"b": 86},
    )


def colour(shade: Shade, dark: bool) -> str:
    """The fill of a meaning on a light or a dark page."""
    return shade.dark if dark else shade.light


def step_axis(figure: go.Figure) -> go.Figure:
    """The axis of a chart by step: of few steps each has its tick, never a half of one."""
    few = max((len(trace.x) for trace in figure.data), default=0) <= _FEW
    return figure.update_xaxes(title="step", tickformat="d", dtick=1 if few else None)


def byte_ticks(most: float) -> dict[str, object]:
    """Axis ticks at round numbers of KiB, MiB or GiB, about four up to `most` bytes."""
    unit = 1024.0 ** max(0, math.floor(math.log(max(most, 1), 1024)))
    rough = max(most / unit / 4, 1 / unit)
    power = 10.0 ** math.floor(math.log10(rough))
    step = unit * power * next(nice for nice in (1, 2, 5, 10) if nice * power >= rough * 0.999)
    ticks = [at * step for at in range(int(most / step) + 1)]
    return {"tickvals": ticks, "ticktext": [bytes_text(tick) for tick in ticks]}

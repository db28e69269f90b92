"""A visit to the bug museum, drawn: two curves that hardly tell, and the probe that does.

    loss |-__                        embed.tokens   o                     D
         |   --__  right, with       layer0.attn.q  o                     D
         |       -_ another seed                    1e-15 ... rounding ... 1
         +--------- step             o without the bug    D with it

Every function takes what a report of a visit has: `curves` are rows of loss and gradient norm by
training, `tensors` rows of relative error.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from parallel_core.views.chart_frame import colour, framed, safe, step_axis
from parallel_core.views.frame import ink
from parallel_core.views.palette import PHASES

AXES = {"loss": "loss (nats per token)", "grad_norm": "gradient norm"}
LOOKS = (("F", "circle", "solid", 3), ("I", "diamond", "solid", 2), ("O", "x-thin", "dot", 2))
"""Phase's colour, mark, line and width: right, with the bug, another seed."""

NARROW = 30
"""Letters of a badge's line beside the names of tensors on a narrow screen."""

LEAST = 1e-17
"""Where an error of exactly 0 is drawn."""

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
Tensors = Mapping[str, Sequence[Mapping[str, Any]]]


def curves(rows: Curves, key: str, *, badge: str, dark: bool = False) -> go.Figure:
    """One curve a training, of the "loss" or the "grad_norm"."""
    figure = go.Figure()
    for (name, steps), (phase, symbol, dash, width) in zip(rows.items(), LOOKS, strict=False):
        shade = colour(PHASES[phase], dark)
        figure.add_scatter(
            x=[row["step"] for row in steps],
            y=[row[key] for row in steps],
            name=safe(name),
            mode="lines+markers",
            line={"color": shade, "dash": dash, "width": width},
            marker={"symbol": symbol, "size": 7, "line": {"color": shade, "width": 2}},
            hovertemplate="step %{x}: %{y:.6f}",
        )
    step_axis(figure).update_yaxes(title=AXES[key])
    return framed(figure, [badge], height=300, dark=dark)


def told(rows: Curves, key: str) -> str:
    """The figure in a sentence."""
    parts = (
        f"{name} from {steps[0][key]:.3f} to {steps[-1][key]:.3f}"
        for name, steps in rows.items()
        if steps
    )
    return f"{AXES[key].split(' (')[0].capitalize()} by step: {'; '.join(parts)}"


def probe(tensors: Tensors, bound: float, *, badge: str, dark: bool = False) -> go.Figure:
    """Every gradient's relative error, with and without the bug, on a logarithmic axis; the line
    is what rounding explains."""
    figure = go.Figure()
    for (name, rows), (phase, symbol, _, _) in zip(tensors.items(), LOOKS, strict=False):
        figure.add_scatter(
            x=[max(row["error"], LEAST) for row in rows],
            y=[row["name"].removesuffix(".weight") for row in rows],
            name=safe(name),
            mode="markers",
            marker={"color": colour(PHASES[phase], dark), "symbol": symbol, "size": 9},
            hovertemplate="%{y}: %{x:.2e}",
        )
    count = max((len(rows) for rows in tensors.values()), default=0)
    figure.add_vline(x=bound, line={"color": ink(dark), "dash": "dash", "width": 1})
    figure.update_xaxes(
        type="log",
        title="relative error (dashed: rounding)",
        tickangle=0,
        exponentformat="power",
        dtick=4,
    )
    figure.update_yaxes(autorange="reversed", tickfont={"size": 11}, dtick=1)
    narrow = "<br>".join(textwrap.wrap(badge, NARROW))  # names stand beside it
    return framed(figure, [narrow], height=190 + 17 * count, dark=dark)


def told_probe(tensors: Tensors, bound: float) -> str:
    """The figure in a sentence."""
    parts = []
    for name, rows in tensors.items():
        wrong = sum(not row["error"] <= bound for row in rows)
        worst = max(rows, key=lambda row: float(row["error"]))
        parts.append(
            f"{name} {wrong} of {len(rows)} above {bound:.0e}, the worst {worst['name']} at "
            f"{worst['error']:.1e}"
        )
    return f"Relative errors of the first gradients: {'; '.join(parts)}"

"""The error of a bfloat16 ring by its size, its sums kept in float32 and in bfloat16.

error |            ___---  bfloat16
      |     __---
      |  --                                    both axes logarithmic
      |  -------------------  float32
      +---------------------- ranks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from parallel_core.views.chart_frame import colour, framed
from parallel_core.views.palette import PHASES

SHADES = {"float32": PHASES["F"], "bfloat16": PHASES["B"]}
LINES = {"the result": ("circle", "solid"), "the worst gradient": ("diamond", "dash")}

Row = Mapping[str, Any]
"""An error of context/rounding.py: kept, ranks, a, dq, dk, dv."""


def of(row: Row) -> dict[str, float]:
    """The two errors that are drawn."""
    worst = max(float(row[name]) for name in ("dq", "dk", "dv"))
    return dict(zip(LINES, (float(row["a"]), worst), strict=True))


def figure(rows: Sequence[Row], *, badge: str, dark: bool = False) -> go.Figure:
    """A line a type of the sums and a tensor."""
    drawn = go.Figure()
    for kept, shade in SHADES.items():
        some = [row for row in rows if row["kept"] == kept]
        for name, (symbol, dash) in LINES.items():
            drawn.add_scatter(
                x=[row["ranks"] for row in some], y=[100 * of(row)[name] for row in some],
                mode="lines+markers", name=f"sums in {kept}: {name}", hoverinfo="text",
                hovertext=[f"{row['ranks']} ranks: {100 * of(row)[name]:.3f} %" for row in some],
                line={"color": colour(shade, dark), "width": 2, "dash": dash},
                marker={"symbol": symbol, "size": 9},
            )  # fmt: skip
    sizes = sorted({row["ranks"] for row in rows})
    drawn.update_xaxes(type="log", title="ranks in the ring", tickvals=sizes)
    drawn.update_yaxes(
        type="log", title="error, % of the values", tickvals=[0.1, 0.2, 0.5, 1, 2, 5, 10]
    )
    return framed(drawn, [badge], height=400, dark=dark)


def in_words(rows: Sequence[Row]) -> str:
    """The figure's message: from the smallest ring to the largest."""
    parts = []
    for kept in SHADES:
        some = sorted((row for row in rows if row["kept"] == kept), key=lambda row: row["ranks"])
        if some:
            first, last = some[0], some[-1]
            parts.append(
                f"Sums kept in {kept}: {100 * first['a']:.2g} % on {_ranks(first)}, "
                f"{100 * last['a']:.2g} % on {_ranks(last)} in the result"
            )
    return ". ".join(parts) + "."


def _ranks(row: Row) -> str:
    return "one rank" if row["ranks"] == 1 else f"{row['ranks']} ranks"

"""The ledger as bars: bytes predicted beside bytes counted."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from parallel_core.quantities import bytes_text
from parallel_core.views.chart_frame import byte_ticks, colour, framed, safe
from parallel_core.views.frame import ink
from parallel_core.views.palette import PHASES, TENSORS


def ledger_bars(
    rows: Sequence[tuple[str, float, float | None]], *, badge: str, dark: bool = False
) -> go.Figure:
    """Bytes measured (solid) under bytes predicted (dashed outline), one row each.

    A row is (label, predicted, measured); None where nothing was measured. A label that is a
    tensor kind takes its colour.
    """
    figure = go.Figure()
    figure.add_bar(
        x=[0.0 if measured is None else measured for _, _, measured in rows],
        y=list(range(len(rows))),
        orientation="h",
        width=0.3,
        name="measured",
        marker={
            "color": [
                colour(TENSORS.get(label, PHASES["collective"]), dark) for label, _, _ in rows
            ],
            "line": {"color": ink(dark), "width": 1},
        },
        hovertext=[safe(f"{name}: {_pair(want, got)}") for name, want, got in rows],
        hoverinfo="text",
        showlegend=False,  # its swatch would take the first bar's colour
    )
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        name="measured (solid)",
        marker={"symbol": "square", "size": 12, "color": ink(dark)},
    )
    x: list[float | None] = []
    y: list[float | None] = []
    for at, (_, predicted, _) in enumerate(rows):
        low, high = at - 0.2, at + 0.2
        x += [0, predicted, predicted, 0, 0, None]
        y += [low, low, high, high, low, None]
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        name="predicted",
        line={"color": ink(dark), "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
    )
    ends = [max(want, got or 0) for _, want, got in rows]
    figure.add_scatter(  # above the bar: beside it a phone has no room
        x=[0.0] * len(rows),
        y=[at - 0.5 for at in range(len(rows))],
        mode="text",
        text=[f"{_name(label)}<br>{_verdict(want, got)}" for label, want, got in rows],
        textposition="middle right",
        textfont={"color": ink(dark)},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    widest = max([1.0, *ends])
    figure.update_xaxes(range=[0, 1.05 * widest], **byte_ticks(widest))
    figure.update_yaxes(showticklabels=False, showgrid=False, range=[len(rows) - 0.7, -0.85])
    return framed(figure, [badge], height=150 + 66 * len(rows), dark=dark)


def _name(label: str) -> str:
    return safe(TENSORS[label].meaning if label in TENSORS else label)


def _pair(predicted: float, measured: float | None) -> str:
    said = "not measured" if measured is None else f"measured {measured:,.0f} bytes"
    return f"predicted {predicted:,.0f} bytes, {said}"


def _verdict(predicted: float, measured: float | None) -> str:
    """What stands above a bar: the bytes, and how they compare."""
    if measured is None:
        return f"predicted {bytes_text(predicted)}, not measured"
    if measured == predicted:
        return f"{bytes_text(measured)} = predicted"
    gap = measured - predicted
    return f"{bytes_text(measured)}, {bytes_text(abs(gap))} {'more' if gap > 0 else 'less'}"

"""Losses by layout and element type: all curves, and below how far each is from the first.

loss |`.                      one colour a type, one dash a layout
     |  `-.___
gap  |          .....---      the same curves' distance from the first, on a log axis
     +------------ step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from parallel_core.views.chart_frame import colour, framed, safe, step_axis
from parallel_core.views.palette import PHASES

_COLOURS = {"float64": "F", "float32": "collective", "bfloat16": "I"}
_DASHES = ("solid", "dash", "dot", "dashdot")
LEAST = 1e-17
"""What stands for no difference at all on an axis that has no zero."""

Lines = Sequence[Mapping[str, Any]]
"""`report["lines"]` of compare.curves."""


def losses(lines: Lines, badges: Sequence[str], *, dark: bool = False) -> go.Figure:
    """The loss of every curve, step by step."""
    drawn = _drawn(lines, [line["losses"] for line in lines], "%{y:.5f} nats", dark)
    drawn.update_yaxes(title="loss (nats a token)")
    return framed(drawn, badges, height=400, dark=dark)


def distances(lines: Lines, badges: Sequence[str], *, dark: bool = False) -> go.Figure:
    """How far every curve but the first is from the first, step by step, on a log axis."""
    first = lines[0]["losses"]
    gaps = [[abs(a - b) for a, b in zip(line["losses"], first, strict=True)] for line in lines]
    raised = [[max(gap, LEAST) for gap in each] for each in gaps]
    drawn = _drawn(lines[1:], raised[1:], "%{y:.2g} nats", dark)
    drawn.update_yaxes(
        type="log", title="distance from the first (nats)", exponentformat="power", dtick=3
    )
    return framed(drawn, badges, height=400, dark=dark)


def _drawn(lines: Lines, series: Sequence[Sequence[float]], hover: str, dark: bool) -> go.Figure:
    figure, seen = go.Figure(), dict[str, int]()
    for line, y in zip(lines, series, strict=True):
        dtype = line["dtype"]
        nth = seen[dtype] = seen.get(dtype, -1) + 1
        figure.add_scatter(
            x=list(range(len(y))),
            y=list(y),
            mode="lines",
            name=safe(line["name"]),
            line={
                "color": colour(PHASES[_COLOURS[dtype]], dark),
                "dash": _DASHES[nth % len(_DASHES)],
                "width": 2,
            },
            hovertemplate=f"step %{{x}}: {hover}",
        )
    return step_axis(figure)


def rows(lines: Lines) -> list[dict[str, str]]:
    """The same as a table."""
    return [
        {
            "curve": line["name"],
            "layout": line["layout"],
            "type": line["dtype"],
            "rounding": line["reduction"],
            "last loss": f"{line['losses'][-1]:.6f}",
            "most from the first": _gap(line["apart"]),
            "most from its type's first": _gap(line["apart_of_its_type"]),
        }
        for line in lines
    ]


def _gap(apart: Mapping[str, float]) -> str:
    return f"{apart['most']:.2g} at step {apart['step']}" if apart["most"] else "0"


def in_words(report: Mapping[str, Any]) -> str:
    """Which curves coincide, and which depart, in sentences."""
    first, *rest = report["lines"]
    said = []
    for dtype in dict.fromkeys(line["dtype"] for line in report["lines"]):
        mine = [line for line in report["lines"] if line["dtype"] == dtype]
        if len(mine) > 1:
            most = max(line["apart_of_its_type"]["most"] for line in mine)
            said.append(f"In {dtype}, {len(mine)} layouts stay within {most:.2g} nats over"
                        f" {report['steps']} steps.")  # fmt: skip
    other = {line["dtype"]: line for line in reversed(rest) if line["dtype"] != first["dtype"]}
    for dtype, line in reversed(other.items()):
        said.append(f"{dtype} departs from {first['dtype']} by up to {line['apart']['most']:.2g}.")
    return " ".join(said)


def machine_words(report: Mapping[str, Any]) -> str:
    """What was trained, where and when."""
    model = ", ".join(f"{name}={value}" for name, value in report["model"].items())
    machine = report["machine"]
    return (
        f"{report['steps']} steps of {model}; {machine['processor']}, {machine['cores']} cores,"
        f" torch {report['versions']['torch']}, {report['date']}"
    )

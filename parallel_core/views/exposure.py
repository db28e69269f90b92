"""Exposed communication against the number of messages: the formula, the simulator, the runs.

    ms |      .'  all of it (nothing hidden)       dashed lines     the formula (data/overlap.py)
       | \\  .'                                     hollow           simulated
       |  `._____  exposed under the backward      filled           the reader's runs
       +------------ messages a step

Both axes are logarithmic: naive and bucketed differ by an order of magnitude in either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from parallel_core.analysis.exposed import exposed
from parallel_core.data.overlap import Overlap
from parallel_core.program import Op
from parallel_core.trace import Kind, Trace
from parallel_core.views.frame import blank, finish, ink
from parallel_core.views.palette import PHASES

_LEAST = 1e-3  # ms; a log axis has no zero
_TICKS = (1, 2, 3, 4, 6, 8, 12, 20, 40, 100, 200, 500, 1000, 2000)


@dataclass(frozen=True, kw_only=True)
class Use:
    """One rank's step, averaged over ranks and steps, milliseconds.

    `backward` is that of the last microbatch, under which buckets can hide.
    """

    step: float
    comm: float
    exposed: float
    backward: float

    @property
    def share(self) -> float:
        """Exposed communication as a share of all communication, 0 to 1."""
        return self.exposed / self.comm if self.comm else 0.0


def use(trace: Trace) -> Use:
    """What a step of `trace` takes; the first step, which warms up, is left out if there are more.

    Communication is that of the gradients: the loss, a scalar, is left out. Raises ValueError for
    a trace without spans.
    """
    steps = trace.steps[1:] or trace.steps
    if not steps:
        raise ValueError("the trace holds no spans yet; run at least one step")
    parts = [trace.only(step) for step in steps]
    found = [exposed(_without_loss(part)) for part in parts]
    ends = sum(len(each.ranks) for each in found) * 1e6
    last = max((s.mb or 0 for s in trace.spans if s.op == Op.B), default=0)
    backward = (s.duration for p in parts for s in p.spans if s.op == Op.B and s.mb == last)
    return Use(
        step=sum(part.makespan for part in parts) / len(parts) / 1e6,
        comm=sum(each.comm_ns for each in found) / ends,
        exposed=sum(each.exposed_ns for each in found) / ends,
        backward=sum(backward) / ends,
    )


def _without_loss(step: Trace) -> Trace:
    return replace(step, spans=tuple(s for s in step.spans if s.where != "loss"))


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A step with `messages` gradient messages, `exposed` milliseconds of them uncovered."""

    messages: int
    exposed: float
    kind: Kind
    label: str = ""
    hover: str = ""
    overlaps: bool = True  # False: the naive method, which sums after the backward


def exposure_curve(
    law: Overlap, dots: Sequence[Dot], *, badges: Sequence[str], dark: bool = False
) -> go.Figure:
    """The two curves of `law` (seconds) with `dots` on them."""
    figure = blank()
    most = max([2, *(dot.messages for dot in dots)])
    x = [most ** (i / 120) for i in range(121)]
    lines = (
        ("all of it", [max(1e3 * law.comm(k), _LEAST) for k in x]),
        ("exposed, K equal buckets", [max(1e3 * law.exposed(k), _LEAST) for k in x]),
    )
    for name, y in lines:
        line = {"color": ink(dark), "width": 1.5, "dash": "dash"}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=name, hoverinfo="name+y")
    for kind in dict.fromkeys(dot.kind for dot in dots):
        _dots(figure, [dot for dot in dots if dot.kind is kind], kind, dark)
    framed(figure, badges, height=400, dark=dark)
    shown = [tick for tick in _TICKS if tick <= most] + [most]
    ticks = sorted({t for t in shown if t == most or t * 1.2 < most})
    figure.update_xaxes(
        type="log", title="gradient messages a step, K", tickvals=ticks,
        ticktext=[str(tick) for tick in ticks], range=[-0.06, math.log10(most) + 0.08],
    )  # fmt: skip
    _name_lines(figure, law, most)
    return figure.update_yaxes(type="log", title="ms a step", tickformat="~g", dtick="D2")


def _name_lines(figure: go.Figure, law: Overlap, most: int) -> None:
    """Each curve's name where the two are far apart, since a legend would be far from both."""
    k = most**0.6
    falls = law.exposed(1.1 * k) < law.exposed(k)
    for name, seconds, above, left in (
        ("all of it", law.comm(k), True, True),
        ("exposed<br>(K equal buckets)", law.exposed(k), False, falls),
    ):
        figure.add_annotation(
            x=math.log10(k), y=math.log10(max(1e3 * seconds, _LEAST)), text=name,
            showarrow=False, font={"size": 12},
            xanchor="right" if left else "left", xshift=-6 if left else 6,
            yanchor="bottom" if above else "top", yshift=4 if above else -4,
        )  # fmt: skip


def _dots(figure: go.Figure, dots: Sequence[Dot], kind: Kind, dark: bool) -> None:
    shade = PHASES["collective"]
    colour = shade.dark if dark else shade.light
    hollow = kind is Kind.MODELLED
    symbols = [
        ("diamond" if dot.overlaps else "square") + ("-open" if hollow else "") for dot in dots
    ]
    edge = {"color": colour if hollow else ink(dark), "width": 1.5 if hollow else 1}
    if kind is Kind.MEASURED:
        edge = {"width": 0}
    figure.add_scatter(
        x=[dot.messages for dot in dots],
        y=[max(dot.exposed, _LEAST) for dot in dots],
        mode="markers+text",
        marker={"symbol": symbols, "size": 10 if hollow else 14, "color": colour, "line": edge},
        text=[dot.label for dot in dots],
        textposition="top center",
        hovertext=[dot.hover for dot in dots],
        hoverinfo="text",
        name=kind.value,
    )


def framed(figure: go.Figure, badges: Sequence[str], *, height: int, dark: bool) -> go.Figure:
    """The common frame, higher by its badges."""
    finish(figure, badges, height=height, dark=dark, grows=True)
    return figure.update_xaxes(title={"font": {"size": 12}})

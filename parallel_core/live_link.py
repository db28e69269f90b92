"""`link`: what a message between two processes of this machine takes, and two laws fitted to it.

    from parallel_core.live_link import link

    here = link()
    here                                # in a notebook: the points, and the laws over them
    here.points, here.plain, here.ramp, here.held_out

It runs in the warm pool of parallel_core.live.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import plotly.graph_objects as go

from parallel_core.collectives.ramp import Point, RampLink, fit_plain, fit_ramp
from parallel_core.cost import Link
from parallel_core.live import pool
from parallel_core.program import Op
from parallel_core.views.machine_room import Law, Ping, ping_pong

TARGET = "parallel_core.collectives.ping:ping"
SIZES = (8, *(1 << k for k in (10, 12, 14, 16, 18, 20, 21, 22, 24)))
APART = 3_000_000
"""Bytes of the message that is measured with the others and is in no fit."""


def link(
    *, sizes: Sequence[int] = SIZES, apart: int = APART, rounds: int = 3, seconds: float = 0.1
) -> LiveLink:
    """Ping-pong between two processes: `rounds` sweeps over `sizes` and the size `apart`.

    About `seconds` a size and sweep. `apart` is measured with the others but in no fit, so that a
    prediction can be held against it.
    """
    swept = []
    for _ in range(rounds):
        order = sorted({*sizes, apart})
        with pool().start(TARGET, 2, {"sizes": order, "seconds": seconds}) as going:
            swept.append(going.wait()[0])
    return LiveLink(tuple(swept), apart)


@dataclass(frozen=True, eq=False)
class LiveLink:
    """What messages between two processes of this machine took, and two laws fitted to it.

    A point is the fastest tenth in the quietest sweep: that is the link. On a machine that others
    use too, the median is mostly their turn on its cores.
    """

    sweeps: tuple[list[dict[str, Any]], ...]  # as collectives/ping.py returns them
    apart: int  # the size that is in no fit

    @cached_property
    def measured(self) -> tuple[Point, ...]:
        """(bytes, seconds) of every size, `apart` among them."""
        return tuple((ping.bytes, ping.seconds) for ping in pings(self.sweeps, self.apart))

    @property
    def points(self) -> tuple[Point, ...]:
        """(bytes, seconds) of the sizes that are fitted."""
        return tuple(point for point in self.measured if point[0] != self.apart)

    @property
    def held_out(self) -> float:
        """Seconds that the message of `apart` bytes took."""
        return dict(self.measured)[self.apart]

    @cached_property
    def plain(self) -> Link:
        """alpha and beta."""
        return fit_plain(self.points)

    @cached_property
    def ramp(self) -> RampLink:
        """The same with a bandwidth that rises with the size."""
        return fit_ramp(self.points)

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Points and laws on one pair of axes."""
        laws = [law("alpha-beta", self.plain), law("with a ramp", self.ramp)]
        badge = f"measured: gloo, 2 ranks on {os.cpu_count()} cores; dashed: fitted to it"
        return ping_pong(pings(self.sweeps, self.apart), laws, badge=badge, dark=dark)

    def _repr_mimebundle_(self, *arguments: object, **_: object) -> Any:
        return self.figure()._repr_mimebundle_()

    def __repr__(self) -> str:
        return f"alpha-beta: {self.plain}; with a ramp: {self.ramp}"


def pings(sweeps: Sequence[Sequence[Mapping[str, Any]]], apart: int) -> tuple[Ping, ...]:
    """What to draw of sweeps: by size the quietest fastest tenth, up to the best median."""
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for sweep in sweeps:
        for row in sweep:
            rows.setdefault(row["bytes"], []).append(row)
    return tuple(
        Ping(
            bytes=size,
            seconds=min(row["low"] for row in found),
            low=min(row["low"] for row in found),
            high=min(row["seconds"] for row in found),
            fitted=size != apart,
        )
        for size, found in sorted(rows.items())
    )


def law(name: str, link: Link) -> Law:
    """A fitted link as a curve to draw."""
    flat = isinstance(link, RampLink) and not link.half
    return Law(
        name=name,
        words="none found, the line fits best" if flat else str(link),
        seconds=lambda size: link.seconds(Op.SEND, round(size), 2),
        half=link.alpha * link.beta,
    )

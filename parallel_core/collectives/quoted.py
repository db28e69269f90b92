"""Published all-reduce curves beside our two link models, fitted to them.

The points are NCCL's, quoted; what is ours is the question how well a ring of alpha-beta hops can
describe them, and the answer is an error, not a match: NCCL changes its algorithm and protocol
with size.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median

from parallel_core.collectives.costs import bus_bandwidth, bus_factor, seconds
from parallel_core.collectives.group import Group
from parallel_core.collectives.ramp import Point, RampLink, fit_plain, fit_ramp, relative_errors
from parallel_core.cost import Link
from parallel_core.published import table

CURVES: dict[str, tuple[int, str]] = {
    "allreduce_b200": (8, "busbw_1node"),
    "allreduce_16gpu": (32, "busbw"),
}
"""Published table -> its ranks, and its column of bus bandwidths in GB/s."""


@dataclass(frozen=True)
class QuotedCurve:
    """One table: (bytes, seconds) as published, and the hops of a ring fitted to it."""

    name: str
    n: int
    points: tuple[Point, ...]
    plain: Link
    ramp: RampLink

    def rows(self) -> tuple[dict[str, float], ...]:
        """bytes, and bus bandwidth in bytes a second: quoted, by alpha-beta, by the ramp."""
        group = Group(self.n)
        found = []
        for size, time in self.points:
            row = {"bytes": size, "quoted": bus_bandwidth("all_reduce", self.n, size, time)}
            for model, link in (("plain", self.plain), ("ramp", self.ramp)):
                ours = seconds("all_reduce", "ring", group, round(size), link)
                row[model] = bus_bandwidth("all_reduce", self.n, size, ours)
            found.append(row)
        return tuple(found)

    def errors(self) -> dict[str, dict[str, float]]:
        """Per model the mean, median and greatest relative error of its times."""
        hops = _hops(self.n, self.points)
        models = {"plain": self.plain, "ramp": self.ramp}
        return {name: _summary(relative_errors(link, hops)) for name, link in models.items()}


def quoted_curve(name: str) -> QuotedCurve:
    """The curve of a published table; KeyError for one that is not in CURVES."""
    n, column = CURVES[name]
    factor = bus_factor("all_reduce", n)
    points = tuple(
        (row["bytes"], row["bytes"] * factor / (row[column] * 1e9)) for row in table(name).rows
    )
    hops = _hops(n, points)
    return QuotedCurve(name, n, points, fit_plain(hops), fit_ramp(hops))


def _hops(n: int, points: tuple[Point, ...]) -> tuple[Point, ...]:
    """One message of the ring that would take as long: an n-th of the buffer, 2(n-1) times."""
    return tuple((size / n, time / (2 * (n - 1))) for size, time in points)


def _summary(errors: tuple[float, ...]) -> dict[str, float]:
    sizes = [abs(error) for error in errors]
    return {"mean": fmean(sizes), "median": median(sizes), "max": max(sizes)}

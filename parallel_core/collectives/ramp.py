"""Links fitted from points: plain alpha-beta, and one whose bandwidth rises more slowly.

Real links do not jump from latency to bandwidth. The obvious law for a bandwidth that saturates,

    bandwidth(m) = beta m / (m + half)      gives      m / bandwidth(m) = half / beta + m / beta

which is alpha-beta again, with alpha = half / beta: nothing is gained. NCCL's curves rise more
slowly than that. With the square root in its place,

    bandwidth(m) = beta / (1 + sqrt(half / m))        seconds(m) = alpha + m / bandwidth(m)

a message of `half` bytes reaches half of beta beyond its latency, and at 100 times half 91 % (99 %
by the law above). Both are sums of 1, sqrt(m) and m, so least squares finds them directly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parallel_core.cost import Link
from parallel_core.program import Op

Point = tuple[float, float]
"""(bytes of a message, seconds)."""


@dataclass(frozen=True)
class RampLink(Link):
    """alpha seconds a message, and a bandwidth that is half of beta at `half` bytes a message."""

    half: float = 0.0

    def bandwidth(self, size: float) -> float:
        """Bytes a second that a message of `size` bytes reaches beyond its latency."""
        return self.beta / (1 + math.sqrt(self.half / size)) if size else self.beta

    def seconds(self, op: Op, payload: int, n: int) -> float:
        """As for Link: a ring's hops for a collective, one message for a send."""
        hops = round(Link(1.0, math.inf).seconds(op, payload, n))
        each = Link(0.0, 1.0).seconds(op, payload, n) / hops if hops else 0.0
        return hops * (self.alpha + each / self.bandwidth(each))

    def __str__(self) -> str:
        return f"{super().__str__()}, half of it at {self.half:.3g} bytes"


def fit_plain(points: Sequence[Point]) -> Link:
    """The Link of least squared relative error; ValueError with fewer than two sizes."""
    alpha, _, slope = _fit(points, ramp=False)
    return Link(alpha=alpha, beta=1 / slope)


def fit_ramp(points: Sequence[Point]) -> RampLink:
    """The RampLink of least squared relative error; it contains every plain Link."""
    alpha, root, slope = _fit(points, ramp=True)
    return RampLink(alpha=alpha, beta=1 / slope, half=(root / slope) ** 2)


def relative_errors(link: Link, points: Sequence[Point]) -> tuple[float, ...]:
    """(predicted - measured) / measured of each point."""
    return tuple(link.seconds(Op.SEND, round(size), 2) / time - 1 for size, time in points)


def _fit(points: Sequence[Point], *, ramp: bool) -> tuple[float, float, float]:
    """Factors of 1, sqrt(m) and m, none below zero: the best of all choices of which are zero."""
    if len({size for size, _ in points}) < 2:
        raise ValueError("a link is fitted from messages of two sizes or more; measure another one")
    sizes, times = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    columns = [np.ones_like(sizes), np.sqrt(sizes), sizes]
    free = (0, 1, 2) if ramp else (0, 2)
    best, least = (0.0, 0.0, float(np.mean(times / sizes))), math.inf
    for chosen in _subsets(free):
        matrix = np.stack([columns[i] / times for i in chosen], axis=1)
        factors, *_ = np.linalg.lstsq(matrix, np.ones_like(times), rcond=None)
        error = float(np.sum((matrix @ factors - 1) ** 2))
        if (factors >= 0).all() and factors[-1] > 0 and error < least:
            found = dict(zip(chosen, map(float, factors), strict=True))
            best, least = (found.get(0, 0.0), found.get(1, 0.0), found[2]), error
    return best


def _subsets(free: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Those that keep the last column: without a slope there is no bandwidth."""
    counts = range(len(free))
    return [(*some, free[-1]) for k in counts for some in itertools.combinations(free[:-1], k)]

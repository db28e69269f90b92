"""A measured number and its doubt, the same shape for every bench.

The middle is the median, the doubt the 95 % interval of that median by order statistics: of n
sorted samples, the true median lies between the k-th lowest and the k-th highest unless fewer
than k samples fell on one side of it, which has the odds of n coin tosses. Exact for any
distribution, deaf to outliers, and the same under a logarithm: an interval of ratios needs none,
and the interval of 1/ratio is its mirror. Conover, Practical Nonparametric Statistics, 3.2.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measurement:
    """`n` samples of a quantity: their median, its 95 % interval `low` to `high`, their spread.

    Fewer than six samples cannot bear 95 %: the interval is then their whole range. `spread` is
    the distance between the quartiles, the middle half of the samples.

    >>> Measurement.of([3.0, 1.0, 2.0], "ms")
    Measurement(unit='ms', median=2.0, low=1.0, high=3.0, spread=1.0, n=3)
    """

    unit: str
    median: float
    low: float
    high: float
    spread: float
    n: int

    @classmethod
    def of(cls, samples: Sequence[float], unit: str) -> Measurement:
        """Raises ValueError if there are no samples."""
        if not samples:
            raise ValueError("a measurement needs at least one sample")
        low, high = median_interval(samples)
        quarters = statistics.quantiles(samples, n=4, method="inclusive") if samples[1:] else [0, 0]
        spread = quarters[-1] - quarters[0]
        return cls(unit, statistics.median(samples), low, high, spread, len(samples))


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """The k-th lowest and the k-th highest sample, k as large as 95 % allow (at least 1).

    >>> median_interval([6, 1, 5, 2, 4, 3])
    (1, 6)
    """
    n, order = len(samples), sorted(samples)
    k, misses = 0, 0.0
    while True:
        misses += 2 * math.comb(n, k) * 0.5**n  # odds that k or fewer samples fell on one side
        if misses > 1 - CONFIDENCE:
            break
        k += 1
    k = max(k, 1)
    return order[k - 1], order[-k]


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Measurement:
    """Our speed over theirs from paired times: pair i gives theirs[i] / ours[i]."""
    return Measurement.of([t / o for o, t in zip(ours, theirs, strict=True)], "x")


@dataclass(frozen=True)
class Report:
    """What a bench found: its rows by name, the settings it ran under, and what to know.

    `warnings` say what makes the figures weaker than they look; `skipped` why there are none.
    """

    bench: str
    title: str
    rows: Mapping[str, Measurement]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: str = ""

    def as_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return asdict(self)

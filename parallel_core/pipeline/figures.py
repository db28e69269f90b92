"""The numbers of a schedule, from its simulated program: how long, how idle, how full.

Three bubbles go by one name in the literature; each is named by what it is divided by:

    bubble_ratio      idle / work            (p-1)/m        for GPipe and 1F1B
    bubble_fraction   idle / all time        (p-1)/(m+p-1)
    bubble_rate       1 - work / the longest rank's own span, first task to last; what the
                      zero-bubble papers print, since with no barrier ranks may shift

Narayanan et al. 2021, arXiv:2104.04473, section 2.2; Qi et al. 2023, arXiv:2401.10241, 5.1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.order import COMPUTES, Order
from parallel_core.pipeline.schedule import Times
from parallel_core.simulate import simulate
from parallel_core.trace import Trace

NANO = 1e9
_TASKS = frozenset(op.value for op in COMPUTES)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Times in the unit the schedule's times have; lists by rank."""

    makespan: float
    work: list[float]
    idle: list[float]  # makespan - work
    internal_idle: list[float]  # of it, what lies between the rank's first and last task
    spans: list[float]  # first start to last end of the rank
    peak_in_flight: list[float]  # microbatches whose F has run and whose W (or B) has not

    @property
    def bubble_ratio(self) -> float:
        """Idle over ideal time."""
        return sum(self.idle) / sum(self.work) if sum(self.work) else 0.0

    @property
    def bubble_fraction(self) -> float:
        """Idle over all the time of all ranks."""
        whole = self.makespan * len(self.idle)
        return sum(self.idle) / whole if whole else 0.0

    @property
    def internal_fraction(self) -> float:
        """The same, fill and drain left out."""
        whole = sum(self.spans)
        return sum(self.internal_idle) / whole if whole else 0.0

    @property
    def bubble_rate(self) -> float:
        """What of the longest rank's span is not work."""
        longest = max(self.spans, default=0.0)
        return 1 - max(self.work) / longest if longest else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Every number by name, JSON-ready."""
        names = ("bubble_ratio", "bubble_fraction", "internal_fraction", "bubble_rate")
        return {**asdict(self), **{name: getattr(self, name) for name in names}}


def simulated(order: Order, times: Times) -> Trace:
    """The order's program on one device a rank, sends buffered; a unit of `times` is a second."""
    return simulate(lower(order), PipelineCost.of(order, times))


def figures(order: Order, times: Times | None = None) -> Figures:
    """The numbers of `order` under `times` (one beat for F, I and W each where none are given).

    >>> from parallel_core.pipeline.order import Order
    >>> figures(Order.parse("F0 F1 B0 B1")).makespan
    6.0
    """
    return figures_of(simulated(order, times or Times.even(order.p)), order)


def figures_of(trace: Trace, order: Order) -> Figures:
    """The same of a trace of the order's program, whatever its clock (seconds); it may begin at
    any moment: time counts from the first task of all."""
    rows = [[span for span in row if span.op in _TASKS] for row in trace.by_rank]
    begun = min((row[0].t_start for row in rows if row), default=0)
    work = [sum(span.duration for span in row) for row in rows]
    first = [row[0].t_start if row else begun for row in rows]
    last = [row[-1].t_done if row else begun for row in rows]
    makespan = max(last, default=begun) - begun
    share = order.p / max(order.stages, 1)
    ranks = range(order.p)
    return Figures(
        makespan=makespan / NANO,
        work=[w / NANO for w in work],
        idle=[(makespan - w) / NANO for w in work],
        internal_idle=[(last[r] - first[r] - work[r]) / NANO for r in ranks],
        spans=[(last[r] - first[r]) / NANO for r in ranks],
        peak_in_flight=[count * share for count in order.in_flight],
    )

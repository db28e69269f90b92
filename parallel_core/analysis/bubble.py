"""The bubble of a trace: how idle each rank was, and how full.

Three bubbles go by one name in the literature; each is named by what it is divided by:

    bubble_ratio      idle / work            (p-1)/m        for GPipe and 1F1B
    bubble_fraction   idle / all time        (p-1)/(m+p-1)
    bubble_rate       1 - most work of a rank / longest way from a rank's first task to its last

Of any trace, measured ones too, and of all its steps together; a pipeline's order alone has the
same numbers on paper. Narayanan et al. 2021, arXiv:2104.04473; Qi et al. 2023, arXiv:2401.10241.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from parallel_core.analysis.cause import Cause, Idle
from parallel_core.analysis.idle import idle, totals
from parallel_core.analysis.slots import TASKS
from parallel_core.program import Lane, Op
from parallel_core.trace import Span, Trace

_RELEASES = frozenset({Op.B.value, Op.W.value})


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBubble:
    """One rank: nanoseconds of work and of each cause (they add up to the makespan), and peaks.

    `internal_ns` is the idle time between its first and last task of a step, `span_ns` the whole
    time between them. `in_flight` counts microbatches from the end of their F to the end of their
    W or whole B, a part of a rank's stages as a part of one; `memory` is in bytes.
    """

    rank: int
    work_ns: int
    causes: dict[Cause, int]
    internal_ns: int
    span_ns: int
    in_flight: float
    memory: int

    @property
    def idle_ns(self) -> int:
        """Not working, for whatever cause."""
        return sum(self.causes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubble:
    """The ranks that are in the trace; `makespan` in nanoseconds."""

    makespan: int
    ranks: tuple[RankBubble, ...]

    @property
    def causes(self) -> dict[Cause, int]:
        """Nanoseconds of each cause over all ranks, in the vocabulary's order."""
        sums = {cause: sum(r.causes.get(cause, 0) for r in self.ranks) for cause in Cause}
        return {cause: ns for cause, ns in sums.items() if ns}

    @property
    def bubble_ratio(self) -> float:
        """Idle over work, summed over ranks."""
        return _share(sum(r.idle_ns for r in self.ranks), sum(r.work_ns for r in self.ranks))

    @property
    def bubble_fraction(self) -> float:
        """Idle over all the time of all ranks."""
        return _share(sum(r.idle_ns for r in self.ranks), self.makespan * len(self.ranks))

    @property
    def internal_fraction(self) -> float:
        """Idle between a rank's first and last task, over the time between them."""
        return _share(sum(r.internal_ns for r in self.ranks), sum(r.span_ns for r in self.ranks))

    @property
    def bubble_rate(self) -> float:
        """What of the longest way from a first task to a last is not the most work of a rank."""
        longest = max((r.span_ns for r in self.ranks), default=0)
        return 1 - _share(max((r.work_ns for r in self.ranks), default=0), longest or 1)


def bubble(trace: Trace, found: tuple[Idle, ...] | None = None) -> Bubble:
    """The bubble of `trace`; `found` are its `idle` slots, where they are known already."""
    slots = idle(trace) if found is None else found
    causes = totals(slots)
    internal: dict[int, int] = defaultdict(int)
    for slot in slots:
        internal[slot.rank] += slot.ns if slot.inside else 0
    flying = in_flight(trace)
    ranks = [
        RankBubble(
            rank=rank,
            work_ns=trace.makespan - sum(causes.get(rank, {}).values()),
            causes=causes.get(rank, {}),
            internal_ns=internal[rank],
            span_ns=_span(row),
            in_flight=flying[rank],
            memory=max(span.memory for span in row),
        )
        for rank, row in enumerate(trace.by_rank)
        if row
    ]
    return Bubble(makespan=trace.makespan, ranks=tuple(ranks))


def in_flight(trace: Trace) -> tuple[float, ...]:
    """Per rank the most microbatches that were in flight at once.

    A microbatch visits each rank of a pipeline once for every stage that is there, so with two
    stages a rank each counts half.
    """
    visits, parts, peaks = set(), set(), []
    for row in trace.by_rank:
        now = most = 0
        tasks = (span for span in row if span.lane == Lane.COMPUTE and span.op in TASKS)
        for span in sorted(tasks, key=lambda s: (s.t_done, s.index)):
            if span.op == Op.F:
                visits.add((span.rank, span.step, span.mb))
                parts.add((span.rank, span.step, span.mb, span.where))
            now += 1 if span.op == Op.F else -1 if span.op in _RELEASES else 0
            most = max(most, now)
        peaks.append(most)
    share = len(visits) / max(1, len(parts))
    return tuple(most * share for most in peaks)


def _span(row: tuple[Span, ...]) -> int:
    """From the first task to the last, summed over steps; of all work where there are no tasks."""
    ends: dict[int, tuple[int, int]] = {}
    piped = any(span.op in TASKS for span in row)
    for span in row:
        works = span.op in TASKS if piped else span.op != Op.WAIT
        if works and span.lane == Lane.COMPUTE:
            first, last = ends.get(span.step, (span.t_start, span.t_done))
            ends[span.step] = min(first, span.t_start), max(last, span.t_done)
    return sum(last - first for first, last in ends.values())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0

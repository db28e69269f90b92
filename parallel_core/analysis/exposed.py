"""Communication hidden and exposed, and how busy each rank was.

On one rank, over the steps looked at:

    compute   |=F=|=B==|......|=O=|      hidden    communication under this rank's own compute
    comm          |###########|          exposed   communication while compute stood still
                  hidden|exposed         idle      neither: compute + exposed + idle = window

A WAIT is standing still, and so is a task for a message inside it that no work goes on beside
(held.py): that is communication, and exposed. Copies between device and host compute nothing.
Overlapping spans count once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from parallel_core.analysis.held import Held
from parallel_core.meetings import is_message
from parallel_core.program import Lane, Op
from parallel_core.trace import Span, Trace

Intervals = list[tuple[int, int]]
_NO_COMPUTE = frozenset({Op.WAIT, *(op for op in Op if op.is_copy)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RankUse:
    """How one rank spent the window, nanoseconds; `compute + exposed + idle == window`.

    `internal_idle` is the part of the window between the rank's own first and last compute
    op in which it did not compute: the bubble without fill and drain.
    """

    rank: int
    window_ns: int
    compute_ns: int
    comm_ns: int
    hidden_ns: int
    exposed_ns: int
    internal_idle_ns: int

    @property
    def idle_ns(self) -> int:
        """Neither computing nor communicating."""
        return self.window_ns - self.compute_ns - self.exposed_ns

    @property
    def utilisation(self) -> float:
        """Compute time as a share of the window, 0 to 1."""
        return self.compute_ns / self.window_ns if self.window_ns else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """The ranks that are in the trace, and their sums."""

    ranks: tuple[RankUse, ...]

    @property
    def comm_ns(self) -> int:
        """Time in communication, summed over ranks."""
        return sum(r.comm_ns for r in self.ranks)

    @property
    def hidden_ns(self) -> int:
        """The part of it under compute, summed over ranks."""
        return sum(r.hidden_ns for r in self.ranks)

    @property
    def exposed_ns(self) -> int:
        """The part of it while compute stood still, summed over ranks."""
        return sum(r.exposed_ns for r in self.ranks)

    @property
    def bubble_of_total(self) -> float:
        """Time not computing as a share of the *total* time of all ranks, 0 to 1.

        A pipeline with free communication has (p-1)/(m+p-1).
        """
        window = sum(r.window_ns for r in self.ranks)
        return 1 - sum(r.compute_ns for r in self.ranks) / window if window else 0.0

    @property
    def bubble_of_ideal(self) -> float:
        """Time not computing as a share of the compute time, 0 and more; (p-1)/m of a pipeline."""
        compute = sum(r.compute_ns for r in self.ranks)
        window = sum(r.window_ns for r in self.ranks)
        return (window - compute) / compute if compute else 0.0


def without_warmup(trace: Trace, steps: int) -> Trace:
    """`trace` without its first `steps` steps; with the last one at least."""
    kept = set(trace.steps[min(steps, len(trace.steps) - 1) :] if trace.steps else ())
    return replace(trace, spans=tuple(s for s in trace.spans if s.step in kept))


def exposed(trace: Trace, *, warmup: int = 0) -> Exposure:
    """How each rank spent its time, the first `warmup` steps left out.

    The window of every rank is the same: the first start to the last end over all ranks.
    """
    trace = without_warmup(trace, warmup)
    window, held = trace.makespan, Held(trace)
    return Exposure(
        ranks=tuple(_use(rank, row, window, held) for rank, row in enumerate(trace.by_rank) if row)
    )


def _use(rank: int, row: tuple[Span, ...], window_ns: int, held: Held) -> RankUse:
    work = union(s for s in row if not is_message(s) and s.op not in _NO_COMPUTE)
    stood = [(s.t_start, s.t_done) for s in row if is_message(s) and s.lane == Lane.COMPUTE]
    stood += [stretch for s in row for stretch in held(s)]
    compute = minus(work, covered(stood))
    comm = covered(
        [
            *((s.t_start, s.t_done) for s in row if is_message(s)),
            *((start, done) for s in row for *_, start, done in s.inside),
        ]
    )
    alone = minus(comm, compute)
    own = compute[-1][1] - compute[0][0] if compute else 0
    return RankUse(
        rank=rank,
        window_ns=window_ns,
        compute_ns=length(compute),
        comm_ns=length(comm),
        hidden_ns=length(comm) - length(alone),
        exposed_ns=length(alone),
        internal_idle_ns=own - length(compute),
    )


def union(spans: Iterable[Span]) -> Intervals:
    """The time covered by at least one span, as disjoint intervals in order."""
    return covered((s.t_start, s.t_done) for s in spans)


def covered(stretches: Iterable[tuple[int, int]]) -> Intervals:
    """The same of stretches of time, (begin, end) each, that may overlap."""
    found: Intervals = []
    for begin, end in sorted(stretches):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif end > begin:
            found.append((begin, end))
    return found


def minus(one: Intervals, other: Intervals) -> Intervals:
    """The part of `one` that `other` does not cover; both disjoint and in order."""
    left: Intervals = []
    at = 0
    for begin, end in one:
        while at < len(other) and other[at][1] <= begin:
            at += 1
        edges = [begin]
        look = at
        while look < len(other) and other[look][0] < end:
            edges += [max(other[look][0], begin), min(other[look][1], end)]
            look += 1
        edges.append(end)
        left += [(a, b) for a, b in list(pairwise(edges))[::2] if b > a]
    return left


def length(intervals: Intervals) -> int:
    """Nanoseconds covered by disjoint intervals."""
    return sum(end - begin for begin, end in intervals)

"""Dependency steps: when an instruction could run if all took one beat, and how late it came.

A span's step is one after the latest of what it had to wait for: the span before it on its lane,
its inputs, and for a receive its send. The members of a collective share a step. A span's
*lateness* is how much later it began than the first of its dependency step: it shows who is behind
the others, wherever in the program they are. A message begins when it moves: an early receive is
not early. Isaacs et al. 2014, doi:10.1109/TVCG.2014.2346456.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from parallel_core.analysis.lateness import Meeting
from parallel_core.meetings import messages
from parallel_core.program import Op
from parallel_core.trace import Span, Trace


@dataclass(frozen=True, slots=True)
class Logical:
    """A span, its dependency step (from 0), and its lateness in nanoseconds."""

    span: Span
    level: int
    late_ns: int


def logical(trace: Trace) -> tuple[Logical, ...]:
    """Every span of `trace`, in its order, with its dependency step and lateness.

    Spans that wait for each other in a circle (only a broken trace has any) stay at step 0.
    """
    met = messages(trace)
    levels = _levels(trace, met)
    moved = {id(end): _moves(Meeting.of(ends), end) for ends in met for end in ends}
    begun = [moved.get(id(span), span.t_start) for span in trace.spans]
    first: dict[int, int] = {}
    for level, begin in zip(levels, begun, strict=True):
        first[level] = min(first.get(level, begin), begin)
    rows = zip(trace.spans, levels, begun, strict=True)
    return tuple(Logical(span, level, begin - first[level]) for span, level, begin in rows)


def _moves(meeting: Meeting, end: Span) -> int:
    late, queue, _ = meeting.parts(end, end.t_start, end.t_done)
    return end.t_start + late + queue


def latest(found: tuple[Logical, ...]) -> dict[int, int]:
    """Per rank its greatest lateness, nanoseconds."""
    late: dict[int, int] = defaultdict(int)
    for one in found:
        late[one.span.rank] = max(late[one.span.rank], one.late_ns)
    return dict(sorted(late.items()))


def _levels(trace: Trace, met: tuple[tuple[Span, ...], ...]) -> list[int]:
    """The longest chain of edges that leads to each span."""
    spans = trace.spans
    number = {id(span): at for at, span in enumerate(spans)}
    node = list(range(len(spans)))
    pairs: list[tuple[int, int]] = []
    for ends in met:
        sends = [number[id(s)] for s in ends if s.op == Op.SEND]
        receives = [number[id(s)] for s in ends if s.op == Op.RECV]
        pairs += [(send, receive) for send in sends for receive in receives]
        if not sends and not receives:
            for end in ends:
                node[number[id(end)]] = number[id(ends[0])]
    lanes: dict[tuple[int, str], list[int]] = defaultdict(list)
    for row in trace.by_rank:
        at = {(span.step, span.index): number[id(span)] for span in row}
        for span in row:
            lanes[span.rank, span.lane].append(number[id(span)])
            needs = (at.get((span.step, index)) for index in span.deps)
            pairs += [(need, number[id(span)]) for need in needs if need is not None]
    for lane in lanes.values():
        pairs += pairwise(lane)
    levels = _longest([(node[one], node[two]) for one, two in pairs], len(spans))
    return [levels[of] for of in node]


def _longest(edges: list[tuple[int, int]], count: int) -> list[int]:
    after: list[list[int]] = [[] for _ in range(count)]
    missing = [0] * count
    for one, two in edges:
        if one != two:
            after[one].append(two)
            missing[two] += 1
    levels = [0] * count
    ready = [at for at in range(count) if not missing[at]]
    while ready:
        at = ready.pop()
        for then in after[at]:
            levels[then] = max(levels[then], levels[at] + 1)
            missing[then] -= 1
            if not missing[then]:
                ready.append(then)
    return levels

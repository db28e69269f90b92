"""When a message could move, whom its ends waited for, and what that rank was doing.

The last end to be *posted* is the culprit. The time in which a rank waits for a message falls into
three parts, in this order:

    late    until the last end was posted
    queue   until the last end's lane took it up (the link was busy with earlier messages)
    wire    until it was done                              so late + queue + wire = the time

    rank 0   |takes it up .... late ....|. queue .|== wire ==|
    rank 2      B layer1 mb0 ... |posted          |== wire ==|

An end that was done before that moment (a buffered send, the root of a broadcast) did not wait
for it. Tables, charts, exports, the player and its words all read this one definition.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from parallel_core.program import Lane, Op
from parallel_core.trace import Span

CARRIERS = frozenset(
    {Lane.COMM, Lane.TOKENS, Lane.TO_NEXT, Lane.FROM_NEXT, Lane.TO_PREV, Lane.FROM_PREV}
)
"""Lanes that only carry messages beside the work: nothing a rank is said to be doing."""

BETWEEN = "between two ops"
ITSELF = "waiting itself"


@dataclass(frozen=True, slots=True)
class Meeting:
    """The ends of one message: `culprit` was posted last, at `posted`; the last was taken up at
    `taken`, the last was done at `done`.
    """

    ends: tuple[Span, ...]
    culprit: Span
    posted: int
    taken: int
    done: int

    @classmethod
    def of(cls, ends: Iterable[Span]) -> Meeting:
        """The meeting of `ends`, of which there is at least one."""
        every = tuple(ends)
        culprit = max(every, key=lambda end: (_posted(end), -end.rank))
        taken, done = max([end.t_start for end in every]), max([end.t_done for end in every])
        return cls(every, culprit, _posted(culprit), taken, done)

    def parts(self, own: Span, begin: int, end: int) -> tuple[int, int, int]:
        """Late, queue, wire of begin..end, in which the rank of `own`, one of the ends, waits."""
        posted = self.posted
        late = queue = 0
        if self.culprit is not own and not self._left(own, posted):
            late = min(end, max(begin, posted)) - begin
        if not self._left(own, self.taken):
            queue = min(end, max(begin + late, self.taken)) - begin - late
        return late, queue, end - begin - late - queue

    def _left(self, own: Span, moment: int) -> bool:
        """Whether `own` was done before that moment: a send also if others are done later only."""
        buffered = own.op == Op.SEND and own.t_done < self.done
        return own.t_done < moment or (buffered and own.t_done == moment)


def _posted(end: Span) -> int:
    """A blocking message is posted when its rank gets there, whenever it could have been."""
    return end.t_start if end.lane == Lane.COMPUTE else end.t_post


@dataclass(frozen=True, slots=True)
class Doing:
    """What filled most of a rank's time: `span`, or none; `words` follow "which was".

    Without a span the rank was between two ops; if nothing at all is recorded of it, `words` is "".
    """

    span: Span | None
    words: str


class Work:
    """What one rank did beside its messages, in order of start."""

    def __init__(self, spans: Iterable[Span]) -> None:
        kept = (span for span in spans if span.lane not in CARRIERS)
        self.spans = sorted(kept, key=lambda span: (span.t_start, span.t_done))
        self.starts = [span.t_start for span in self.spans]
        self.done_by = list(accumulate((span.t_done for span in self.spans), max))

    def during(self, begin: int, end: int) -> Doing:
        """The label that fills most of begin..end; no label if gaps fill more than all ops."""
        sums: dict[str, int] = defaultdict(int)
        longest: dict[str, tuple[int, Span]] = {}
        for span in self._overlapping(begin, end):
            label = ITSELF if span.op == Op.WAIT else f"in {span.label}"
            overlap = min(span.t_done, end) - max(span.t_start, begin)
            sums[label] += overlap
            if label not in longest or overlap > longest[label][0]:
                longest[label] = overlap, span
        if sum(sums.values()) * 2 < end - begin or not sums:
            return Doing(None, BETWEEN if self.spans else "")
        most = max(sums, key=lambda label: sums[label])
        return Doing(longest[most][1], most)

    def _overlapping(self, begin: int, end: int) -> list[Span]:
        """Those that share time with begin..end, in order, without a full scan."""
        found: list[Span] = []
        at = bisect_left(self.starts, end) - 1
        while at >= 0 and self.done_by[at] > begin:
            span = self.spans[at]
            if min(span.t_done, end) > max(span.t_start, begin):
                found.append(span)
            at -= 1
        return found[::-1]

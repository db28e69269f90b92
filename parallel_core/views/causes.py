"""Why a rank stands still: every wait of a trace, whom it is for, and what that rank was doing.

The ends of a message are found by meetings.py. The last end to be *posted* is the culprit, and
analysis/lateness.py says how a wait falls into late, queue and wire: what the tables say as well.

A rank waits in three places: inside a message, until the wire, in an explicit WAIT, and in the
gap before an instruction whose input came from a message. Gaps that no message explains (a rank
that has nothing to do) are no waits. Waits shorter than 1/2000 of the makespan are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from parallel_core.analysis.cause import LATE, Cause, late_cause
from parallel_core.analysis.chain import Stand, roots
from parallel_core.analysis.lateness import BETWEEN, Meeting, Work
from parallel_core.analysis.slots import Kind, kind_of
from parallel_core.analysis.slowness import Slowness
from parallel_core.meetings import complete, joined
from parallel_core.program import Lane, Op
from parallel_core.trace import Span, Trace

UNKNOWN, GAP = -1, -2
"""A culprit of which nothing is recorded; one that was between two ops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One wait. `row` is the span that waits, `message` the one it waits for, `culprit` that
    message's last end to be posted and `doing` what the culprit's rank ran then; all four are
    positions in the rows, `doing` also UNKNOWN or GAP. Where the culprit waited itself, `root` is
    what the last of those who wait for each other ran. Times are nanoseconds; `slow` is 0 unless
    `why` is STRAGGLER.
    """

    row: int
    start: int
    end: int
    late: int
    queue: int
    why: Cause
    message: int
    culprit: int
    doing: int
    slow: float = 0.0
    root: int = UNKNOWN

    @property
    def length(self) -> int:
        """Nanoseconds it lasts."""
        return self.end - self.start

    @property
    def wire(self) -> int:
        """Nanoseconds of it in which the message was on its way."""
        return self.length - self.late - self.queue


def ordered(trace: Trace) -> tuple[Span, ...]:
    """The rows of a figure: by rank, the compute lane first, then by start."""
    return tuple(
        sorted(
            trace.spans,
            key=lambda s: (s.rank, s.lane != Lane.COMPUTE, s.lane, s.t_start, s.t_done, s.index),
        )
    )


def message_ids(rows: Sequence[Span]) -> list[int]:
    """Per row the number of its message; the ends of one message share it, -1 is none."""
    by_rank: dict[int, list[Span]] = defaultdict(list)
    for span in sorted(rows, key=lambda s: (s.t_start, s.t_done)):
        by_rank[span.rank].append(span)
    found = joined(row for _, row in sorted(by_rank.items()))
    of = {id(end): number for number, ends in enumerate(found) for end in ends}
    numbers: dict[int, int] = {}  # in the order of the rows
    return [
        numbers.setdefault(of[id(span)], len(numbers)) if id(span) in of else -1 for span in rows
    ]


def waits(rows: Sequence[Span], ids: Sequence[int]) -> list[Wait]:
    """Every wait in `rows` (from `ordered`), in row order; `ids` are their `message_ids`."""
    return _Search(rows, ids).waits()


class _Search:
    """The trace, indexed for the questions a wait asks."""

    def __init__(self, rows: Sequence[Span], ids: Sequence[int]) -> None:
        self.rows, self.ids = rows, ids
        self.at = {id(span): row for row, span in enumerate(rows)}
        ends: dict[int, list[Span]] = defaultdict(list)
        self.place: dict[tuple[int, int, int], int] = {}
        by_rank: dict[int, list[Span]] = defaultdict(list)
        for row, span in enumerate(rows):
            if ids[row] >= 0:
                ends[ids[row]].append(span)
            if span.lane == Lane.INSIDE:
                continue  # of a task that is there
            by_rank[span.rank].append(span)
            key = (span.rank, span.step, span.index)
            if key not in self.place or rows[self.place[key]].t_done < span.t_done:
                self.place[key] = row
        self.meetings = {number: Meeting.of(every) for number, every in ends.items()}
        self.work = {rank: Work(spans) for rank, spans in by_rank.items()}
        self.slowness = Slowness(rows)
        first = min((s.t_start for s in rows), default=0)
        self.shortest = max(1, (max((s.t_done for s in rows), default=0) - first) // 2000)
        self.begun: dict[int, int] = {}
        for span in rows:
            self.begun[span.step] = min(span.t_start, self.begun.get(span.step, span.t_start))

    def waits(self) -> list[Wait]:
        found: list[Wait | None] = []
        before: Span | None = None
        for row, span in enumerate(self.rows):
            if before and (before.rank, before.lane) != (span.rank, span.lane):
                before = None
            if self.ids[row] >= 0:
                found.append(self._in_message(row, span))
            elif span.lane == Lane.COMPUTE:
                found.append(self._before(row, span, before))
            before = span
        long = [wait for wait in found if wait and wait.length >= self.shortest]
        return list(self._followed(long))

    def _in_message(self, row: int, span: Span) -> Wait | None:
        """The part of a message before its wire; none if an end is missing: it may be the last."""
        meeting = self.meetings[self.ids[row]]
        if not complete(meeting.ends):
            return None
        late, queue, _ = meeting.parts(span, span.t_start, span.t_done)
        return self._wait(row, row, span.t_start, span.t_start + late + queue, first=False)

    def _before(self, row: int, span: Span, before: Span | None) -> Wait | None:
        """The wait inside a WAIT, or in the gap before any other instruction."""
        if span.op == Op.WAIT:
            start, end = span.t_start, span.t_done
        else:
            start = self.begun[span.step] if before is None else before.t_done
            end = span.t_start
        message = self._needed(span)
        if message < 0 or end <= start or self.rows[message].t_done <= start:
            return None
        return self._wait(row, message, start, end, first=before is None and span.op != Op.WAIT)

    def _needed(self, span: Span) -> int:
        """The message among the inputs of `span` that came last, as a row; -1 if none."""
        deps = (self.place.get((span.rank, span.step, index), -1) for index in span.deps)
        messages = (row for row in deps if row >= 0 and self.ids[row] >= 0)
        return max(messages, key=lambda row: self.rows[row].t_done, default=-1)

    def _wait(self, row: int, message: int, start: int, end: int, *, first: bool) -> Wait:
        meeting = self.meetings[self.ids[message]]
        late, queue, wire = meeting.parts(self.rows[message], start, end)
        doing = self._doing(meeting.culprit.rank, start, start + late) if late else UNKNOWN
        parts = {late_cause(self.rows[message]): late, Cause.LINK_BUSY: queue, Cause.WIRE: wire}
        return Wait(
            row=row,
            start=start,
            end=end,
            late=late,
            queue=queue,
            why=Cause.FILL if first else max(parts, key=lambda part: parts[part]),
            message=message,
            culprit=self.at[id(meeting.culprit)],
            doing=doing,
        )

    def _doing(self, rank: int, start: int, end: int) -> int:
        """What `rank` did for most of start..end: a row, GAP or UNKNOWN."""
        doing = self.work[rank].during(start, end)
        if doing.span is None:
            return GAP if doing.words == BETWEEN else UNKNOWN
        return self.at[id(doing.span)]

    def _followed(self, found: list[Wait]) -> Iterator[Wait]:
        """The waits with the end of their chains; who is slow there makes them a straggler's."""
        ranks = 1 + max((span.rank for span in self.rows), default=0)
        stands: list[list[Stand]] = [[] for _ in range(ranks)]
        waits: list[list[Wait]] = [[] for _ in range(ranks)]
        for wait in found:
            span = self.rows[wait.row]
            if span.lane == Lane.COMPUTE:
                waits[span.rank].append(wait)
                stands[span.rank].append(self._stand(wait))
        ends = roots(stands)
        last = {
            wait.row: waits[end[0]][end[1]]
            for row, of in zip(waits, ends, strict=True)
            for wait, end in zip(row, of, strict=True)
        }
        for wait in found:
            yield self._blamed(wait, last.get(wait.row, wait)) if wait.why in LATE else wait

    def _stand(self, wait: Wait) -> Stand:
        blame = self.rows[wait.culprit].rank if wait.late else None
        return Stand(wait.start, wait.start + wait.late, blame, self._works(wait.doing))

    def _works(self, doing: int) -> bool:
        return doing >= 0 and kind_of(self.rows[doing]) is Kind.WORK

    def _blamed(self, wait: Wait, end: Wait) -> Wait:
        if not self._works(end.doing):
            return wait
        slow = round(self.slowness.times(self.rows[end.doing]), 1)
        root = UNKNOWN if end is wait else end.doing
        return replace(wait, root=root, slow=slow, why=Cause.STRAGGLER if slow else wait.why)

"""Why a rank stands still: every wait of a trace, whom it is for, and what that rank was doing.

The ends of a message are found by meetings.py. The last end to be *posted* is
the culprit. A wait then falls into three parts, in this order:

    late    until the last end was posted
    queue   until the last end's lane took it up (the link was busy with earlier messages)
    wire    until it was done

A rank waits in three places: inside a message it posted early, in an explicit WAIT, and in the
gap before an instruction whose input came from a message. Gaps that no message explains (a rank
that has nothing to do) are no waits. Waits shorter than 1/2000 of the makespan are left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from parallel_core.meetings import meeting_of
from parallel_core.program import Lane, Op
from parallel_core.trace import Span, Trace

SLOW = 1.5
"""A culprit is a straggler if its op took this many times the median of the same op."""


class Why(StrEnum):
    """What a wait is mostly made of; each has its own hatch."""

    FILL = "fill"
    LATE_PEER = "late peer"
    LATE_RECEIVER = "late receiver"
    LINK_BUSY = "link busy"
    WIRE = "on the wire"
    STRAGGLER = "straggler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One wait. `row` is the span that waits, `message` the one it waits for, `culprit` that
    message's last end to be posted and `doing` what the culprit's rank ran then (-1: nothing);
    all four are positions in the rows. Times are nanoseconds; `slow` is 0 unless WHY is STRAGGLER.
    """

    row: int
    start: int
    end: int
    late: int
    queue: int
    why: Why
    message: int
    culprit: int
    doing: int
    slow: float = 0.0

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
    numbers: dict[tuple[object, ...], int] = {}
    keys = [None if span.seq is None else meeting_of(span) for span in rows]
    return [
        -1 if key is None else numbers.setdefault((*key, span.seq), len(numbers))
        for key, span in zip(keys, rows, strict=True)
    ]


def waits(rows: Sequence[Span], ids: Sequence[int]) -> list[Wait]:
    """Every wait in `rows` (from `ordered`), in row order; `ids` are their `message_ids`."""
    return _Search(rows, ids).waits()


class _Search:
    """The trace, indexed for the questions a wait asks."""

    def __init__(self, rows: Sequence[Span], ids: Sequence[int]) -> None:
        self.rows, self.ids = rows, ids
        self.ends: dict[int, list[int]] = defaultdict(list)
        self.place: dict[tuple[int, int, int], int] = {}
        self.compute: dict[int, list[int]] = defaultdict(list)
        durations: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, span in enumerate(rows):
            if ids[row] >= 0:
                self.ends[ids[row]].append(row)
            key = (span.rank, span.step, span.index)
            if key not in self.place or rows[self.place[key]].t_done < span.t_done:
                self.place[key] = row
            if span.lane == Lane.COMPUTE:
                self.compute[span.rank].append(row)
                durations[span.op, span.where].append(span.duration)
        self.last = [max(ends, key=self._posted) for _, ends in sorted(self.ends.items())]
        self.taken = [
            max(rows[end].t_start for end in ends) for _, ends in sorted(self.ends.items())
        ]
        self.starts = {rank: [rows[i].t_start for i in all_] for rank, all_ in self.compute.items()}
        self.median = {key: sorted(all_)[(len(all_) - 1) // 2] for key, all_ in durations.items()}
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
        return [wait for wait in found if wait and wait.length >= self.shortest]

    def _in_message(self, row: int, span: Span) -> Wait | None:
        last = self.last[self.ids[row]]
        posted = self.rows[last].t_post
        if last == row or posted <= span.t_start or span.t_done <= posted:
            return None
        return self._wait(row, row, span.t_start, posted, first=False)

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

    def _posted(self, row: int) -> tuple[int, int]:
        return self.rows[row].t_post, -self.rows[row].rank

    def _wait(self, row: int, message: int, start: int, end: int, *, first: bool) -> Wait:
        culprit, begun = self.last[self.ids[message]], self.taken[self.ids[message]]
        posted = self.rows[culprit].t_post
        late = min(end, max(start, posted)) - start if culprit != message else 0
        queue = min(end, max(start + late, begun)) - start - late
        doing = self._doing(self.rows[culprit].rank, start, start + late) if late else -1
        parts = {Why.LATE_PEER: late, Why.LINK_BUSY: queue, Why.WIRE: end - start - late - queue}
        why = max(parts, key=lambda part: parts[part])
        slow = 0.0
        if why == Why.LATE_PEER:
            slow = self._slow(doing)
            is_send = self.rows[message].op == Op.SEND
            why = Why.STRAGGLER if slow else Why.LATE_RECEIVER if is_send else why
        return Wait(
            row=row,
            start=start,
            end=end,
            late=late,
            queue=queue,
            why=Why.FILL if first else why,
            message=message,
            culprit=culprit,
            doing=doing,
            slow=slow,
        )

    def _doing(self, rank: int, start: int, end: int) -> int:
        """The compute span of `rank` that fills most of start..end, as a row; -1 if none."""
        places = self.compute[rank]
        at = max(0, bisect_right(self.starts.get(rank, []), start) - 1)
        best, most = -1, 0
        for row in places[at:]:
            span = self.rows[row]
            if span.t_start >= end:
                break
            overlap = min(end, span.t_done) - max(start, span.t_start)
            if overlap > most:
                best, most = row, overlap
        return best

    def _slow(self, row: int) -> float:
        """How many times its median the span at `row` took, if that makes it a straggler."""
        span = self.rows[row] if row >= 0 else None
        if span is None or span.op == Op.WAIT:
            return 0.0
        ratio = span.duration / max(1, self.median[span.op, span.where])
        return round(ratio, 1) if ratio >= SLOW else 0.0

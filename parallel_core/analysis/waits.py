"""Waiting told apart from the queue and the wire, message by message.

The ends of a message are the spans of all its ranks; each lasts from when its lane takes it up
until it is done, and lateness.py says how that time falls apart:

    wait = until the last end was posted           that end's rank is the culprit
    queue = until the last end's lane took it up   its link was busy with earlier messages
    wire = until it was done                       so wait + queue + wire = duration
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from parallel_core.analysis.lateness import Meeting, Work
from parallel_core.meetings import complete, messages
from parallel_core.quantities import time_text
from parallel_core.trace import Span, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One end of one message; `wait_ns + queue_ns + wire_ns` is the span's duration.

    `culprit` is the rank that posted last (the rank itself, if it waited for nobody), and
    `culprit_was_doing` follows "which was": "in B layer1 mb0", "waiting itself", "between two
    ops", or "" where nothing is recorded of it.
    """

    rank: int
    span: Span
    culprit: int
    culprit_was_doing: str
    wait_ns: int
    queue_ns: int
    wire_ns: int

    @property
    def sentence(self) -> str:
        """The cause in words, for a hover or a text account."""
        rest = f"the wire took {time_text(self.wire_ns)}"
        if self.queue_ns:
            rest = f"{time_text(self.queue_ns)} queued behind other messages; {rest}"
        if self.wait_ns == 0:
            return f"rank {self.rank} waited for nobody in {self.span.label}; {rest}"
        who = f"rank {self.rank} waited {time_text(self.wait_ns)} for rank {self.culprit}"
        doing = f", which was {self.culprit_was_doing}" if self.culprit_was_doing else ""
        return f"{who}{doing}; {rest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTotal:
    """Sums over the messages of one rank, nanoseconds; `caused_ns` is what others waited for it."""

    rank: int
    messages: int
    wait_ns: int
    queue_ns: int
    wire_ns: int
    caused_ns: int


def waits(trace: Trace) -> tuple[Wait, ...]:
    """Wait, queue and wire of every message whose ends are all in the trace."""
    work = [Work(row) for row in trace.by_rank]
    meetings = (Meeting.of(ends) for ends in messages(trace) if complete(ends))
    return tuple(_wait(end, meeting, work) for meeting in meetings for end in meeting.ends)


def _wait(end: Span, meeting: Meeting, work: list[Work]) -> Wait:
    late, queue, wire = meeting.parts(end, end.t_start, end.t_done)
    culprit = meeting.culprit.rank
    doing = work[culprit].during(end.t_start, end.t_start + late).words if late else ""
    return Wait(
        rank=end.rank,
        span=end,
        culprit=culprit if late else end.rank,
        culprit_was_doing=doing,
        wait_ns=late,
        queue_ns=queue,
        wire_ns=wire,
    )


def totals(found: Iterable[Wait]) -> tuple[RankTotal, ...]:
    """Messages, waiting, queue, wire and waiting caused, summed per rank."""
    rows: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for wait in found:
        mine = rows[wait.rank]
        for at, more in enumerate((1, wait.wait_ns, wait.queue_ns, wait.wire_ns)):
            mine[at] += more
        rows[wait.culprit][4] += wait.wait_ns
    return tuple(
        RankTotal(rank=rank, messages=n, wait_ns=wait, queue_ns=queue, wire_ns=wire, caused_ns=by)
        for rank, (n, wait, queue, wire, by) in sorted(rows.items())
    )

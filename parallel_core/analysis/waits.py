"""Waiting told apart from the wire, message by message.

The ends of a message are the spans of all its ranks. An end *arrives* when its lane begins it
(`t_start`); what the rank had handed over earlier stood behind another message of its own, which
is not waiting for a peer. Nothing can move before the last end has arrived:

    wait = last arrival - own arrival        the last to arrive is the culprit
    wire = own end - last arrival            so wait + wire = duration

    rank 0   |arrives ....... wait ........|== wire ==|
    rank 2      B layer1 mb0 ... |arrives  |== wire ==|

An end that was done before the last one arrived (a buffered send, the root of a broadcast)
waited for nobody: all of it is wire.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

from parallel_core.meetings import complete, is_message, last_arrival, messages
from parallel_core.program import Op
from parallel_core.quantities import time_text
from parallel_core.trace import Span, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One end of one message; `wait_ns + wire_ns` is the span's duration.

    `culprit` is the rank that arrived last (the rank itself, if nobody came later), and
    `culprit_was_doing` the label of what kept it: a span, `waiting` or `idle`.
    """

    rank: int
    span: Span
    culprit: int
    culprit_was_doing: str
    wait_ns: int
    wire_ns: int

    @property
    def sentence(self) -> str:
        """The cause in words, for a hover or a text account."""
        wire = f"the wire took {time_text(self.wire_ns)}"
        if self.wait_ns == 0:
            return f"rank {self.rank} waited for nobody in {self.span.label}; {wire}"
        who = f"rank {self.rank} waited {time_text(self.wait_ns)} for rank {self.culprit}"
        return f"{who}, which was {_in(self.culprit_was_doing)}; {wire}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTotal:
    """Sums over the messages of one rank, nanoseconds; `caused_ns` is what others waited for it."""

    rank: int
    messages: int
    wait_ns: int
    wire_ns: int
    caused_ns: int


def waits(trace: Trace) -> tuple[Wait, ...]:
    """The wait and the wire of every message whose ends are all in the trace."""
    lanes = [
        (_Lane([s for s in row if not is_message(s)]), _Lane(list(filter(is_message, row))))
        for row in trace.by_rank
    ]
    return tuple(
        _wait(end, last_arrival(ends), lanes)
        for ends in messages(trace)
        if complete(ends)
        for end in ends
    )


def split(end: Span, last: Span) -> int:
    """The moment at which `end` stops waiting for `last` and the wire begins, nanoseconds."""
    buffered = end.t_done <= last.t_start if end.op == Op.SEND else end.t_done < last.t_start
    return end.t_start if buffered else max(last.t_start, end.t_start)


class _Lane:
    """Spans in order of start; `overlapping` finds those of an interval without a full scan."""

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans
        self.starts = [span.t_start for span in spans]
        self.done_by = list(accumulate((span.t_done for span in spans), max))

    def overlapping(self, begin: int, end: int) -> dict[str, int]:
        """Label -> nanoseconds between `begin` and `end`."""
        kept: dict[str, int] = defaultdict(int)
        at = bisect_left(self.starts, end) - 1
        while at >= 0 and self.done_by[at] > begin:
            span = self.spans[at]
            overlap = min(span.t_done, end) - max(span.t_start, begin)
            if overlap > 0:
                kept["waiting" if span.op == Op.WAIT else span.label] += overlap
            at -= 1
        return kept


def _wait(end: Span, last: Span, lanes: list[tuple[_Lane, _Lane]]) -> Wait:
    moment = split(end, last)
    waited = moment - end.t_start
    return Wait(
        rank=end.rank,
        span=end,
        culprit=last.rank if waited else end.rank,
        culprit_was_doing=_doing(lanes[last.rank], last, end.t_start) if waited else "",
        wait_ns=waited,
        wire_ns=end.t_done - moment,
    )


def _doing(lanes: tuple[_Lane, _Lane], late: Span, since: int) -> str:
    """What kept `late` from `since` to its own start, for most of that time, on the guilty lane.

    If its rank had handed it over in time, its comm lane was still busy with another message.
    """
    compute, comm = lanes
    guilty = comm if late.t_post <= since else compute
    kept = guilty.overlapping(since, late.t_start)
    kept["idle"] = late.t_start - since - sum(kept.values())
    return max(kept, key=lambda label: kept[label])


def _in(doing: str) -> str:
    return doing if doing in ("idle", "waiting") else f"in {doing}"


def totals(found: Iterable[Wait]) -> tuple[RankTotal, ...]:
    """Messages, waiting, wire and waiting caused, summed per rank."""
    rows: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for wait in found:
        mine = rows[wait.rank]
        mine[0], mine[1], mine[2] = mine[0] + 1, mine[1] + wait.wait_ns, mine[2] + wait.wire_ns
        rows[wait.culprit][3] += wait.wait_ns
    return tuple(
        RankTotal(rank=rank, messages=n, wait_ns=wait, wire_ns=wire, caused_ns=caused)
        for rank, (n, wait, wire, caused) in sorted(rows.items())
    )

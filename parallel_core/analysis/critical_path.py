"""The critical path: the chain of spans that set the makespan, walked back from the last end.

Each moment of the makespan has one cause. Walking back from the last end, a span hands over to
whatever its start (or the end of its waiting) stood on:

    a message     queue and wire are its own; before that, the end that was posted last
    a WAIT        the message that ended it
    other work    what it depends on, or what ran before it on its lane, whichever ended last

The pieces tile the makespan: between two of them nothing overlaps, and a time in which no
recorded span explains the delay is a piece without a span ("nothing recorded").
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from parallel_core.analysis.lateness import Meeting
from parallel_core.meetings import complete, is_message, messages
from parallel_core.program import Op
from parallel_core.quantities import time_text
from parallel_core.trace import Span, Trace

GAP = "nothing recorded"
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the path: the span that worked (None: nothing recorded), from begin to end."""

    span: Span | None
    begin: int
    end: int

    @property
    def ns(self) -> int:
        """Nanoseconds of this piece."""
        return self.end - self.begin


@dataclass(frozen=True)
class CriticalPath:
    """The pieces from the trace's start to its end, in order of time; they tile the makespan."""

    pieces: tuple[Piece, ...]

    @property
    def spans(self) -> tuple[Span, ...]:
        """The spans on the path, each once, in order of time."""
        return tuple(dict.fromkeys(piece.span for piece in self.pieces if piece.span is not None))

    @property
    def length(self) -> int:
        """Nanoseconds explained by spans; the makespan less what nothing recorded explains."""
        return sum(piece.ns for piece in self.pieces if piece.span is not None)

    @property
    def shares(self) -> dict[str, float]:
        """Op (or "nothing recorded") -> its share of the makespan, the largest first; sums to 1."""
        sums: dict[str, int] = defaultdict(int)
        for piece in self.pieces:
            sums[GAP if piece.span is None else piece.span.op] += piece.ns
        whole = sum(sums.values())
        return {op: sums[op] / whole for op in sorted(sums, key=lambda op: -sums[op])}

    @property
    def account(self) -> str:
        """The path in one sentence."""
        if not self.pieces:
            return "the trace is empty: it has no critical path"
        largest = list(self.shares.items())[:_NAMED]
        parts = [f"{op} {share:.0%}" for op, share in largest if share >= 0.005]
        hops = [p.span.rank for p in self.pieces if p.span is not None]
        jumps = sum(one != two for one, two in pairwise(hops))
        whole = time_text(self.pieces[-1].end - self.pieces[0].begin)
        way = f"it changes rank {'once' if jumps == 1 else f'{jumps} times'}"
        if not jumps:
            way = f"it stays on rank {hops[0]}" if hops else "no span is on it"
        return f"{whole} from first start to last end: {', '.join(parts)}; {way}"


def critical_path(trace: Trace) -> CriticalPath:
    """The chain of causes behind the last end of `trace`."""
    if not trace.spans:
        return CriticalPath(())
    causes = _Causes(trace)
    span: Span | None = max(trace.spans, key=lambda s: (s.t_done, s.t_start))
    until = trace.start + trace.makespan
    pieces: list[Piece] = []
    seen: set[int] = set()
    while span is not None:
        seen.add(id(span))
        begin, cause = causes.of(span, until, seen)
        _put(pieces, Piece(span, begin, until))
        until = begin
        if cause is not None and cause.t_done < until and cause.t_start < until:
            _put(pieces, Piece(None, cause.t_done, until))
            until = cause.t_done
        span = cause
    _put(pieces, Piece(None, trace.start, until))
    return CriticalPath(tuple(reversed(pieces)))


def _put(pieces: list[Piece], piece: Piece) -> None:
    if piece.end > piece.begin:
        pieces.append(piece)


class _Causes:
    """For a span on the path: since when it worked itself, and what it waited for before."""

    def __init__(self, trace: Trace) -> None:
        meetings = (Meeting.of(ends) for ends in messages(trace) if complete(ends))
        self.meetings = {id(end): meeting for meeting in meetings for end in meeting.ends}
        ordered = sorted(trace.spans, key=lambda s: (s.t_done, s.t_start))
        self.at = {(s.rank, s.step, s.index): s for s in ordered}
        self.told = any(s.deps for s in ordered)
        self.done_in_order: dict[tuple[int, str], list[Span]] = defaultdict(list)
        for span in ordered:
            self.done_in_order[span.rank, self._lane(span.lane)].append(span)
        self.ends = {key: [s.t_done for s in row] for key, row in self.done_in_order.items()}

    def _lane(self, lane: str) -> str:
        """Without recorded deps, anything that ended before on the rank may be the cause."""
        return lane if self.told else ""

    def of(self, span: Span, until: int, seen: set[int]) -> tuple[int, Span | None]:
        """The moment from which `span` itself explains the time up to `until`, and the cause."""
        meeting = self.meetings.get(id(span)) or Meeting.of((span,))
        last = meeting.culprit
        late, _, _ = meeting.parts(span, span.t_start, span.t_done)
        moment = span.t_start + late
        if span.t_start < moment <= until and id(last) not in seen:
            return moment, self._before(last, moment, seen)
        deps = self._deps(span, seen)
        if span.op == Op.WAIT and deps:
            ended = min(deps[-1].t_done, until)
            if ended > span.t_start:
                return ended, deps[-1]
        begin = min(span.t_start, until)
        return begin, self._before(span, begin, seen)

    def _before(self, span: Span, begin: int, seen: set[int]) -> Span | None:
        """The dep or the span before on the lane that ended last, not after `begin`."""
        options = self._deps(span, seen)
        lane = (span.rank, self._lane(span.lane))
        row, ends = self.done_in_order[lane], self.ends[lane]
        for at in range(bisect_right(ends, begin) - 1, -1, -1):
            if id(row[at]) not in seen and row[at] is not span:
                options.append(row[at])
                break
        return max(options, key=lambda s: (s.t_done, is_message(s)), default=None)

    def _deps(self, span: Span, seen: set[int]) -> list[Span]:
        """The recorded deps of `span`, the one that ended last at the end."""
        found = (self.at.get((span.rank, span.step, index)) for index in span.deps)
        kept = [s for s in found if s is not None and id(s) not in seen and s is not span]
        return sorted(kept, key=lambda s: s.t_done)

"""Which spans are the ends of one message: the one rule by which ranks' rows are joined.

The ends of a collective share (step, axis, the ranks of the group), those of a point-to-point
message (step, source, destination); the n-th such span of one rank meets the n-th of the others
(`seq`, or their order where a trace has none). An end *arrives* when its rank posts it: what its
lane takes up later stands behind another message of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from parallel_core.program import Lane, Op
from parallel_core.trace import Span, Trace

Key = tuple[object, ...]
_MESSAGE_OPS = frozenset(op.value for op in Op if op.is_message)


def is_message(span: Span) -> bool:
    """Whether the span moves bytes between ranks (also for ops of other tools)."""
    return span.lane in (Lane.COMM, Lane.TOKENS) or span.op in _MESSAGE_OPS


def other_end(span: Span) -> int | None:
    """The peer of a SEND or RECV span, whether `peers` holds both ends or the other alone."""
    others = [peer for peer in span.peers if peer != span.rank]
    return others[0] if others else (span.rank if span.peers else None)


def messages(trace: Trace) -> tuple[tuple[Span, ...], ...]:
    """Every message as the tuple of its ends, in rank order; messages in order of first start.

    Spans without a `seq` are counted in the order in which their rank began them. A message of
    which only some ends are in the trace holds only those.
    """
    return joined(trace.by_rank)


def joined(by_rank: Iterable[Iterable[Span]]) -> tuple[tuple[Span, ...], ...]:
    """The `messages` of rows of spans, one row a rank, each in order of start."""
    counts: dict[Key, int] = defaultdict(int)
    found: dict[Key, list[Span]] = defaultdict(list)
    for row in by_rank:
        for span in filter(is_message, row):
            group = meeting_of(span)
            if group is None:
                continue
            counter = (*group, span.op if group[0] == "p2p" else "", span.rank)
            seq = counts[counter] if span.seq is None else span.seq
            counts[counter] += 1
            found[*group, seq].append(span)
    ends = (tuple(sorted(spans, key=lambda s: s.rank)) for spans in found.values())
    return tuple(sorted(ends, key=lambda spans: min(s.t_start for s in spans)))


def meeting_of(span: Span) -> Key | None:
    """What the ends of a message share besides their sequence number."""
    if span.op in (Op.SEND, Op.RECV):
        other = other_end(span)
        if other is None:
            return None
        pair = (span.rank, other) if span.op == Op.SEND else (other, span.rank)
        return ("p2p", span.step, *pair)
    return ("group", span.step, span.axis, tuple(sorted(span.peers))) if span.peers else None


def complete(ends: tuple[Span, ...]) -> bool:
    """Whether every rank of the message is there."""
    return {s.rank for s in ends} >= {peer for s in ends for peer in s.peers}


def last_arrival(ends: tuple[Span, ...]) -> Span:
    """The end that was posted last; of several at the same moment the lowest rank."""
    return max(ends, key=lambda s: (s.t_post, -s.rank))

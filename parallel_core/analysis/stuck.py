"""Who is to blame for a hang: the rank that posted least, not the rank that timed out.

Every rank of a group posts the same collectives in the same order. When the group hangs, the
ranks that wait have posted number k; the culprit's last number is lower. Where all have posted
k and none finished, no rank is behind: the link, or two different operations under one number.

A span that never finished says so in its `where` (`UNFINISHED`): a flight record has them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from parallel_core.meetings import messages
from parallel_core.program import Op
from parallel_core.trace import Span, Trace

POSTED, STARTED = "posted, never started", "started, never finished"
UNFINISHED = frozenset({POSTED, STARTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A group that hangs: who waits in which number, and who never posted it.

    `culprits` is empty where no rank is behind; `silent` are the ranks of which the trace holds
    no record at all, so that nothing can be said of them.
    """

    axis: str
    peers: tuple[int, ...]
    seq: int
    op: str
    waiting: tuple[int, ...]
    culprits: tuple[int, ...]
    silent: tuple[int, ...]
    sentence: str


def stuck(trace: Trace) -> tuple[Stuck, ...]:
    """The groups that hang (collectives by group, sends and receives by pair), the root first.

    A group whose culprits wait themselves, in another group, is a consequence and comes later;
    otherwise the one that began to wait first is in front.
    """
    groups: dict[tuple[bool, str, tuple[int, ...]], list[tuple[Span, ...]]] = defaultdict(list)
    for ends in messages(trace):
        one = ends[0]
        pair = one.op in (Op.SEND, Op.RECV)
        peers = tuple(sorted({peer for end in ends for peer in (*end.peers, end.rank)}))
        groups[pair, "" if pair else one.axis or "", peers].append(ends)
    present = {s.rank for s in trace.spans}
    hangs: list[tuple[int, Stuck]] = []
    for (_, axis, peers), sets in groups.items():
        hang = _first_hang(sets)
        if hang is not None:
            hangs.append((min(s.t_post for s in hang), _verdict(hang, axis, peers, present)))
    waiting = {rank for _, hang in hangs for rank in hang.waiting}
    hangs.sort(key=lambda h: (bool(h[1].culprits) and set(h[1].culprits) <= waiting, h[0]))
    return tuple(hang for _, hang in hangs)


def _first_hang(sets: list[tuple[Span, ...]]) -> tuple[Span, ...] | None:
    """The unfinished message with the lowest number of one group."""
    hanging = [ends for ends in sets if any(end.where in UNFINISHED for end in ends)]
    return min(hanging, key=lambda ends: ends[0].seq or 0, default=None)


def _verdict(ends: tuple[Span, ...], axis: str, peers: tuple[int, ...], present: set[int]) -> Stuck:
    waiting = tuple(sorted({end.rank for end in ends if end.where in UNFINISHED}))
    posted = {end.rank for end in ends}
    culprits = tuple(p for p in peers if p not in posted and p in present)
    silent = tuple(p for p in peers if p not in present)
    first = next(end for end in ends if end.where in UNFINISHED)
    number = first.seq or 0
    where = f"{first.op} number {number}" + (f" of {axis}" if axis else "")
    stand = f"{_ranks(waiting)} {_verb(waiting, 'stands', 'stand')} in {where}"
    return Stuck(
        axis=axis,
        peers=peers,
        seq=number,
        op=first.op,
        waiting=waiting,
        culprits=culprits,
        silent=silent,
        sentence=f"{stand}; {_blame(ends, culprits, silent)}",
    )


def _blame(ends: tuple[Span, ...], culprits: tuple[int, ...], silent: tuple[int, ...]) -> str:
    kinds = sorted({end.op for end in ends if end.op not in (Op.SEND, Op.RECV)})
    if len(kinds) > 1:
        said = ", ".join(f"rank {end.rank} posted {end.op}" for end in ends)
        return f"under one number they disagree: {said}"
    if culprits:
        return f"{_ranks(culprits)} never posted it: look there first"
    if silent:
        return f"the record of {_ranks(silent)} is missing: load it, or look there first"
    return "every rank posted it and it did not end: look at the link, not at a rank"


def _ranks(ranks: tuple[int, ...]) -> str:
    names = ", ".join(map(str, ranks))
    return f"rank {names}" if len(ranks) == 1 else f"ranks {names}"


def _verb(ranks: tuple[int, ...], one: str, many: str) -> str:
    return one if len(ranks) == 1 else many

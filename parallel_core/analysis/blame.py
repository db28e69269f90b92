"""Whom a standstill is for: the culprit, what it had to compute, what it was doing instead.

Where the culprit stood still too, its own wait is followed (chain.py): if the last of the chain
is slow, all in it wait for a straggler.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from parallel_core.analysis.cause import LATE, Cause, Idle
from parallel_core.analysis.chain import Stand, roots
from parallel_core.analysis.lateness import Meeting
from parallel_core.analysis.record import Record
from parallel_core.analysis.slots import Kind, kind_of
from parallel_core.meetings import is_message

_FOLLOWED = LATE | {Cause.FILL}


class Blame:
    """Standstills, rank by rank, that learn whom they are for."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.ranks: list[list[Idle]] = []

    def add(self, standstills: Iterable[Idle]) -> None:
        """The standstills of the next rank, in order of time."""
        self.ranks.append([self._told(slot) for slot in standstills])

    def found(self) -> tuple[Idle, ...]:
        """All of them, by rank and time, each followed to the end of its chain."""
        ends = roots([[_stand(slot) for slot in row] for row in self.ranks])
        return tuple(
            self._followed(slot, self.ranks[end[0]][end[1]])
            for row, of in zip(self.ranks, ends, strict=True)
            for slot, end in zip(row, of, strict=True)
        )

    def _told(self, slot: Idle) -> Idle:
        """With the culprit, what was awaited of it, and what it did; or what it queued behind."""
        if slot.message is None or slot.cause is Cause.WIRE:
            return slot
        meeting = self.record.meeting(slot.message)
        if meeting is None:
            return slot
        if slot.cause is Cause.LINK_BUSY:
            return replace(slot, ahead=_ahead(meeting))
        culprit = meeting.culprit
        if culprit is slot.message:
            return slot
        before = [s for s in self.record.inputs(culprit) if not is_message(s)]
        doing = None
        if slot.cause in _FOLLOWED:
            doing = self.record.work[culprit.rank].during(slot.start, slot.end).span
        return replace(
            slot,
            blame=culprit.rank,
            awaited=max(before, key=lambda s: s.t_done, default=None),
            doing=doing if doing is not None and kind_of(doing) is Kind.WORK else None,
        )

    def _followed(self, slot: Idle, end: Idle) -> Idle:
        if slot.cause not in LATE or slot.blame is None:
            return slot
        slow = 0.0 if end.doing is None else self.record.slowness.times(end.doing)
        cause = Cause.STRAGGLER if slow else slot.cause
        return replace(slot, root=end.blame, work=end.doing, slow=slow, cause=cause)


def _stand(slot: Idle) -> Stand:
    blame = slot.blame if slot.cause in _FOLLOWED else None
    return Stand(slot.start, slot.end, blame, slot.doing is not None)


def _ahead(meeting: Meeting) -> str:
    """What a message stood behind: the link its sender names, or messages of its lane."""
    said = next((end.source for end in meeting.ends if end.source.startswith("waited")), "")
    last = max(meeting.ends, key=lambda end: end.t_start)
    return said or f"queued behind other messages of rank {last.rank}"

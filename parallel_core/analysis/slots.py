"""A rank's compute lane, cut into slots that tile the time: work, and all that is not.

    lane    F0 ......... [wait] B0 [send] ......
    slots   work  gap     wait  work  message  gap

Every moment belongs to one slot. Where spans overlap (a message inside a layer, work under a
WAIT) the message has it before the work, and the work before the WAIT. Work counts on whatever
lane it runs (a device may have several), messages and WAITs where they hold up the compute lane.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from parallel_core.meetings import is_message
from parallel_core.program import Lane, Op
from parallel_core.trace import Span

TASKS = frozenset({Op.F.value, Op.B.value, Op.I.value, Op.W.value})
"""What a pipeline schedule orders; everything else on the compute lane is other work."""


class Kind(IntEnum):
    """What a slot is; the higher has the time where spans overlap."""

    GAP = 0
    WAIT = 1
    WORK = 2
    MESSAGE = 3


class Slot(NamedTuple):
    """From begin to end the lane was with `span`; a gap stands before it, or before nothing."""

    begin: int
    end: int
    kind: Kind
    span: Span | None


def kind_of(span: Span) -> Kind:
    """What a span of the compute lane does with its time."""
    if span.op == Op.WAIT:
        return Kind.WAIT
    return Kind.MESSAGE if is_message(span) else Kind.WORK


def tile(row: Iterable[Span], begin: int, end: int) -> list[Slot]:
    """The slots of one rank from `begin` to `end`, in order; `row` is in order of start."""
    taken: list[Slot] = []
    for span in row:
        if span.lane == Lane.COMPUTE or kind_of(span) is Kind.WORK:
            _take(taken, span)
    return list(_with_gaps(taken, begin, end))


def _take(taken: list[Slot], span: Span) -> None:
    """Add the span: time after the last slot is free, before it goes to the higher kind."""
    kind, at = kind_of(span), span.t_start
    last = taken[-1].end if taken else at
    if at < last:
        _take_over(taken, span, kind)
    if at >= last or span.t_done > last:
        taken.append(Slot(max(at, last), span.t_done, kind, span))


def _take_over(taken: list[Slot], span: Span, kind: Kind) -> None:
    tail: list[Slot] = []
    while taken and taken[-1].end > span.t_start:
        tail.append(taken.pop())
    for slot in reversed(tail):
        begin, end = max(slot.begin, span.t_start), min(slot.end, span.t_done)
        if slot.kind >= kind or begin >= end:
            taken.append(slot)
            continue
        cuts = (slot.begin, begin, slot), (begin, end, None), (end, slot.end, slot)
        for left, right, old in cuts:
            if right > left and old is None:
                taken.append(Slot(left, right, kind, span))
            elif right > left:
                taken.append(slot._replace(begin=left, end=right))


def _with_gaps(taken: Sequence[Slot], begin: int, end: int) -> Iterable[Slot]:
    at = begin
    for slot in taken:
        if slot.begin > at:
            yield Slot(at, slot.begin, Kind.GAP, slot.span)
        yield slot
        at = slot.end
    if end > at:
        yield Slot(at, end, Kind.GAP, None)

"""Every idle slot of a rank's compute lane, each with its cause (cause.py has the vocabulary).

What stands before an instruction is told from what the instruction needed last: the message, the
rank that posted it last, and what that rank had to compute first. Busy time and the slots found
here tile the trace: for each rank they add up to the makespan, to the nanosecond.

    F0 |............ gap ............| B0        B0 needs a message
       | late | queue |  wire  | own |           lateness.py; `own` is the rank's own delay
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from parallel_core.analysis.blame import Blame
from parallel_core.analysis.cause import LATE, Cause, Idle, late_cause
from parallel_core.analysis.record import Record
from parallel_core.analysis.slots import TASKS, Kind, Slot, tile
from parallel_core.collection import collection_paused
from parallel_core.meetings import is_message
from parallel_core.program import Op, Program
from parallel_core.trace import Kind as Source
from parallel_core.trace import Span, Trace


class Part(NamedTuple):
    """A part of a standstill: until when, why, and the rank's own end of the message, if any."""

    end: int
    cause: Cause
    message: Span | None = None


def idle(trace: Trace, program: Program | None = None) -> tuple[Idle, ...]:
    """Every idle slot of every rank that is in the trace, by rank and time.

    `program` says what instructions need where the spans do not (`deps`). A rank's own delay is
    overhead in a run, where the lane starts what is ready; on paper it can only be a choice.
    """
    own = Cause.OVERHEAD if trace.kind in (Source.MEASURED, Source.RECORDED) else Cause.CHOICE
    with collection_paused():
        record = Record(trace, program)
        blame = Blame(record)
        for rank, row in enumerate(trace.by_rank):
            slots = tile(row, record.begin, record.end) if row else []
            lane = _Lane(record, rank, slots, own if record.told else Cause.UNKNOWN)
            blame.add(lane.standstills())
        return blame.found()


def totals(found: Iterable[Idle]) -> dict[int, dict[Cause, int]]:
    """Nanoseconds per rank and cause; ranks ascending, causes in the vocabulary's order."""
    sums: dict[int, dict[Cause, int]] = defaultdict(lambda: defaultdict(int))
    for slot in found:
        sums[slot.rank][slot.cause] += slot.ns
    return {rank: {c: sums[rank][c] for c in Cause if c in sums[rank]} for rank in sorted(sums)}


class _Lane:
    """One rank's compute lane: its slots, and per step where its work and its tasks lie."""

    def __init__(self, record: Record, rank: int, slots: list[Slot], own: Cause) -> None:
        self.record, self.rank, self.slots = record, rank, slots
        self.own = own  # what a delay is for which all was there
        work = [(slot, slot.span) for slot in slots if slot.span and slot.kind is Kind.WORK]
        piped = any(span.op in TASKS for _, span in work)
        self.works: dict[int, tuple[int, int]] = {}  # step -> from its first work to its last
        self.tasks: dict[int, tuple[int, int]] = {}
        self.order: dict[int, list[Span]] = defaultdict(list)
        for slot, span in work:
            step = span.step
            self.works[step] = self.works.get(step, (slot.begin, 0))[0], slot.end
            if not piped or span.op in TASKS:
                self.tasks[step] = self.tasks.get(step, (slot.begin, 0))[0], slot.end
                self.order[step].append(span)
        self.readiest = self._readiest()

    def _readiest(self) -> dict[int, tuple[int, Span]]:
        """id(task) -> of the tasks after it, the one that was ready first, and when it was."""
        best: dict[int, tuple[int, Span]] = {}
        for tasks in self.order.values():
            after: tuple[int, Span] | None = None
            for task in reversed(tasks):
                if after is not None:
                    best[id(task)] = after
                ready = max([s.t_done for s in self.record.inputs(task)], default=0)
                if after is None or ready <= after[0]:
                    after = ready, task
        return best

    def standstills(self) -> Iterator[Idle]:
        """Every slot that is not work, cut by cause, in order of time."""
        work: Span | None = None
        follows: list[Span | None] = []
        for slot in reversed(self.slots):
            work = slot.span if slot.kind is Kind.WORK else work
            follows.append(work)
        step = min(self.works, default=0)
        for slot, work in zip(self.slots, reversed(follows), strict=True):
            later = step if slot.span is None else slot.span.step
            if slot.kind is not Kind.WORK:
                begin = slot.begin
                if slot.kind is Kind.GAP and later != step:
                    # Between steps it drains until the old one is over everywhere, then fills.
                    over = min(slot.end, max(begin, self.record.over[step]))
                    yield from self._pieces(begin, step, work, [Part(over, Cause.DRAIN)])
                    begin = over
                if begin < slot.end:
                    cut = slot._replace(begin=begin)
                    yield from self._pieces(begin, later, work, self._parts(cut, later, work))
            step = later

    def _parts(self, slot: Slot, step: int, work: Span | None) -> list[Part]:
        first, last = self.works.get(step, (slot.begin, slot.begin))
        if slot.span is None or slot.begin >= last:
            return [Part(slot.end, Cause.DRAIN)]
        message = self._needed(slot, slot.span)
        if slot.end <= first and (message is None or message.op in (Op.SEND, Op.RECV)):
            return [Part(slot.end, Cause.FILL, message)]
        if message is None:
            return [Part(slot.end, self.own)]
        if slot.kind is Kind.WAIT and work is not None and not self._waits_for(work, slot.begin):
            return [Part(slot.end, Cause.CHOICE, message)]
        return self._message_parts(message, slot.begin, slot.end)

    def _needed(self, slot: Slot, span: Span) -> Span | None:
        """The message the lane stood for: a blocking one itself, else the last input to come."""
        if slot.kind is Kind.MESSAGE:
            return span
        came = [s for s in self.record.inputs(span) if is_message(s) and s.t_done > slot.begin]
        return max(came, key=lambda s: s.t_done, default=None)

    def _waits_for(self, work: Span, moment: int) -> bool:
        """Whether anything that `work` needs was not there yet."""
        return any(s.t_done > moment for s in self.record.inputs(work))

    def _message_parts(self, message: Span, begin: int, end: int) -> list[Part]:
        meeting = self.record.meeting(message)
        at, stop = begin, min(end, message.t_done)
        if meeting is None:
            parts = [Part(stop, Cause.UNKNOWN, message)]  # the end that is missing may be the last
        else:
            parts = []
            if meeting.culprit is message:  # nobody else was late: the rank asked for it late
                at = min(stop, max(begin, meeting.posted))
                parts.append(Part(at, self.own))
            late, queue, _ = meeting.parts(message, at, stop)
            parts.append(Part(at + late, late_cause(message), message))
            parts.append(Part(at + late + queue, Cause.LINK_BUSY, message))
            parts.append(Part(stop, Cause.WIRE, message))
        return [*parts, Part(end, self.own)]

    def _pieces(
        self, begin: int, step: int, work: Span | None, parts: list[Part]
    ) -> Iterator[Idle]:
        first, last = self.tasks.get(step, (begin, begin))
        ready_at, ready = self.readiest.get(id(work), (0, None))
        for end, cause, message in parts:
            if end <= begin:
                continue
            if cause in LATE and begin >= last and self._pipes(message, step):
                cause = Cause.DRAIN
            yield Idle(
                rank=self.rank,
                step=step,
                start=begin,
                end=end,
                cause=cause,
                next=None if cause is Cause.DRAIN else work,
                message=message,
                ready=ready if cause is not Cause.DRAIN and ready_at <= begin else None,
                inside=first <= begin and end <= last,
            )
            begin = end

    def _pipes(self, message: Span | None, step: int) -> bool:
        """Whether the last to post has other stages: its lateness is the pipeline's drain."""
        meeting = None if message is None else self.record.meeting(message)
        if meeting is None:
            return False
        places = self.record.places
        return places[self.rank, step] != places[meeting.culprit.rank, step]

"""A program in numbers: what a reader that must be fast reads instead of names.

Instructions are numbered rank by rank, in program order. A *slot* is one value on one rank, a
*lane* one lane of one rank, a *meeting* one message or collective with all its ends. Which ends
meet is known before anything runs: the k-th send from a to b meets the k-th receive on b from a,
and the k-th collective of a rank on a group meets the k-th of every other member.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate

from parallel_core.program import Instr, Lane, Op, Program, Value


class Does(IntEnum):
    """What an instruction is to a clock."""

    WORK = 0  # takes its own time
    WAIT = 1
    MEET = 2  # a collective: starts with its last member
    SEND = 3
    RECV = 4


_DOES = {op: Does.MEET if op.is_collective else Does.WORK for op in Op}
_DOES |= {Op.WAIT: Does.WAIT, Op.SEND: Does.SEND, Op.RECV: Does.RECV}
_MEET = Does.MEET

Numbers = tuple[int, ...]
Meets = Callable[[int, Instr], tuple[Hashable, int, Numbers]]
"""(rank, instruction) -> what its ends have in common, how many ends there are, their ranks."""


@dataclass(frozen=True)
class Numbered:
    """The first block of lists has an entry an instruction, each other block as it says."""

    instrs: list[Instr] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)
    does: list[Does] = field(default_factory=list)
    lane: list[int] = field(default_factory=list)
    reads: list[Numbers] = field(default_factory=list)  # slots
    writes: list[Numbers] = field(default_factory=list)  # slots
    frees: list[Numbers] = field(default_factory=list)  # slots
    meeting: list[int] = field(default_factory=list)  # -1: meets nobody
    peers: list[Numbers] = field(default_factory=list)  # ranks
    seq: list[int | None] = field(default_factory=list)  # meetings of the same ends before it

    # of each slot: its value, and the instruction that writes it (-1: held at the start)
    values: list[Value] = field(default_factory=list)
    writer: list[int] = field(default_factory=list)
    held: list[list[int]] = field(default_factory=list)  # of each rank: slots

    # of each lane: its rank, its name, its instructions
    lanes: list[tuple[int, Lane, list[int]]] = field(default_factory=list)

    # of each meeting: how many instructions must come
    needed: list[int] = field(default_factory=list)

    def first_of_ranks(self) -> list[int]:
        """The number of each rank's first instruction, and behind the last rank their count."""
        counts = Counter(self.rank)
        return [0, *accumulate(counts[rank] for rank in range(len(self.held)))]

    def deps(self, at: int, first: int) -> Numbers:
        """Which instructions of its rank wrote what `at` reads, counted from the rank's `first`."""
        reads, writer = self.reads[at], self.writer
        if len(reads) == 1:
            number = writer[reads[0]] - first
            return (number,) if number >= 0 else ()
        writers = {writer[slot] - first for slot in reads}
        return tuple(sorted([number for number in writers if number >= 0]))


def number(program: Program) -> Numbered:
    """The program in numbers."""
    groups: dict[tuple[int, str], Numbers] = {}

    def meets(rank: int, instr: Instr) -> tuple[Hashable, int, Numbers]:
        if instr.axis is not None and instr.op.is_collective:
            group = groups.get((rank, instr.axis))
            if group is None:
                group = program.mesh.group(rank, instr.axis)
                groups.update({(member, instr.axis): group for member in group})
            return (instr.axis, group), len(group), group
        assert instr.peer is not None  # check() refuses a message without one
        pair = (rank, instr.peer) if instr.op == Op.SEND else (instr.peer, rank)
        return pair, 2, pair

    return number_ranks(program.ranks, program.holds, meets)


def number_ranks(
    ranks: Sequence[Iterable[Instr]], holds: Sequence[Iterable[Value]], meets: Meets
) -> Numbered:
    """Instructions per rank and what each holds, in numbers; `meets` says who meets whom."""
    work = Numbered()
    meetings: dict[Hashable, int] = {}
    for rank, instrs in enumerate(ranks):
        _Rank(work, rank, meets, meetings).take(holds[rank], instrs)
    return work


class _Slots(dict[Value, int]):
    """Value -> slot; a value not met before gets the next one."""

    def __init__(self, values: list[Value], writer: list[int]) -> None:
        self.named, self.writer = values, writer

    def __missing__(self, value: Value) -> int:
        slot = self[value] = len(self.named)
        self.named.append(value)
        self.writer.append(-1)
        return slot


class _Rank:
    """Numbers the instructions of one rank."""

    def __init__(
        self, work: Numbered, rank: int, meets: Meets, meetings: dict[Hashable, int]
    ) -> None:
        self.work, self.rank, self.meets, self.meetings = work, rank, meets, meetings
        self.slots = _Slots(work.values, work.writer)
        self.lanes: dict[Lane, int] = {}
        self.counts: dict[Hashable, int] = defaultdict(int)

    def take(self, holds: Iterable[Value], instrs: Iterable[Instr]) -> None:
        """Add the rank to the work."""
        work, slots = self.work, self.slots
        work.held.append([slots[value] for value in holds])
        for instr in instrs:
            at = len(work.instrs)
            does = _DOES[instr.op]
            work.instrs.append(instr)
            work.rank.append(self.rank)
            work.does.append(does)
            reads = tuple([slots[value] for value in instr.reads]) if instr.reads else ()
            writes = tuple([slots[value] for value in instr.writes]) if instr.writes else ()
            work.reads.append(reads)
            work.writes.append(writes)
            work.frees.append(self._freed(instr, reads))
            for slot in writes:
                work.writer[slot] = at
            lane = self._lane(instr.lane)
            work.lane.append(lane)
            work.lanes[lane][2].append(at)
            if does >= _MEET:
                self._meet(at, instr, does)
            else:
                work.meeting.append(-1)
                work.peers.append(())
                work.seq.append(None)

    def _freed(self, instr: Instr, reads: tuple[int, ...]) -> tuple[int, ...]:
        if instr.frees is instr.reads:
            return reads
        return tuple([self.slots[value] for value in instr.frees]) if instr.frees else ()

    def _lane(self, lane: Lane) -> int:
        if lane not in self.lanes:
            self.lanes[lane] = len(self.work.lanes)
            self.work.lanes.append((self.rank, lane, []))
        return self.lanes[lane]

    def _meet(self, at: int, instr: Instr, does: Does) -> None:
        """Find or open the meeting that this end belongs to."""
        work = self.work
        shared, needed, peers = self.meets(self.rank, instr)
        mine = (shared, does)
        count = self.counts[mine]
        self.counts[mine] += 1
        key = (shared, count)
        meeting = self.meetings.get(key)
        if meeting is None:
            meeting = self.meetings[key] = len(work.needed)
            work.needed.append(needed)
        work.meeting.append(meeting)
        work.peers.append(peers)
        work.seq.append(count)

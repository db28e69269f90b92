"""The simulator: when does every instruction run, if it costs what a Cost says?

It knows two rules (program.py): a lane is in order, and reads wait for writes. A collective
starts when the last of its group has come; a receive ends when its message has arrived. A send
is *buffered* (done once the bytes are out) or *rendezvous* (it waits for its receive, as NCCL's
and gloo's do): under rendezvous a careless order deadlocks, and the error says who stands where.

Lanes are in order, so no event queue is needed: each lane runs until it meets something that is
not there yet, and whatever writes that wakes it. One visit an instruction.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from parallel_core.cost import Cost, UnitCost
from parallel_core.program import Instr, Lane, Op, Program, ProgramError, Value
from parallel_core.recording import Expander, Note
from parallel_core.trace import Provenance, Span, Trace

Place = tuple[int, int]
"""(rank, index): one instruction."""


def simulate(program: Program, cost: Cost, *, rendezvous: bool = False) -> Trace:
    """The program's trace under `cost`; times are nanoseconds since the start.

    Raises ProgramError on a deadlock.
    """
    machine = _Machine(program, cost, rendezvous=rendezvous)
    machine.run()
    note = "rendezvous sends" if rendezvous else ""
    prov = Provenance(
        kind=cost.kind, title=program.name, backend=cost.text, notes=(note,) if note else ()
    )
    expander = Expander(program)
    spans: list[Span] = []
    for rank, notes in enumerate(machine.notes):
        spans += expander.spans(rank, sorted(notes, key=lambda note: note[1]))
    return Trace(tuple(spans), prov, program.mesh.size)


def run_order(program: Program, *, rendezvous: bool) -> list[tuple[Place, ...]]:
    """An order in which the program can run; the members of a collective stand together.

    Raises ProgramError on a deadlock.
    """
    machine = _Machine(program, UnitCost(), rendezvous=rendezvous)
    machine.run()
    return machine.order


@dataclass
class _Meeting:
    """Where the ranks of a collective, or the two ends of a message, find each other."""

    needed: int
    came: dict[int, tuple[int, float, float]] = field(default_factory=dict)  # index, post, start


class _Machine:
    """Lanes, what they wait for, and the clock."""

    def __init__(self, program: Program, cost: Cost, *, rendezvous: bool) -> None:
        self.program, self.cost, self.rendezvous = program, cost, rendezvous
        self.queues: dict[tuple[int, Lane], list[int]] = defaultdict(list)
        for rank, index, instr in program:
            self.queues[rank, instr.lane].append(index)
        self.at = dict.fromkeys(self.queues, 0)
        self.free_at = dict.fromkeys(self.queues, 0.0)
        self.written: list[dict[Value, float]] = [
            dict.fromkeys(holds, 0.0) for holds in program.holds
        ]
        self.waiting: dict[tuple[int, Value], list[tuple[int, Lane]]] = defaultdict(list)
        self.meetings: dict[tuple[object, ...], _Meeting] = {}
        self.counts: dict[tuple[object, ...], int] = defaultdict(int)
        self.arrived: dict[tuple[int, int, int], float] = {}
        self.live = [sum(cost.bytes(value) for value in holds) for holds in program.holds]
        self.notes: list[list[Note]] = [[] for _ in program.ranks]
        self.order: list[tuple[Place, ...]] = []

    def run(self) -> None:
        """Run every lane to its end."""
        ready = list(self.queues)
        while ready:
            ready += self._advance(ready.pop())
        if any(self.at[lane] < len(queue) for lane, queue in self.queues.items()):
            raise ProgramError(self._deadlock())

    def _advance(self, lane: tuple[int, Lane]) -> list[tuple[int, Lane]]:
        """Run one lane until it must wait; the lanes it woke."""
        rank, queue = lane[0], self.queues[lane]
        woken: list[tuple[int, Lane]] = []
        while self.at[lane] < len(queue):
            index = queue[self.at[lane]]
            instr = self.program.ranks[rank][index]
            ready = 0.0
            for value in instr.reads:
                if value not in self.written[rank]:
                    self.waiting[rank, value].append(lane)
                    return woken
                ready = max(ready, self.written[rank][value])
            start = max(ready, self.free_at[lane])
            finished = self._try(rank, index, instr, ready, start)
            if finished is None:
                return woken
            for member, at, post, begun, done in finished:
                woken += self._finish(member, at, post, begun, done)
            woken = [other for other in woken if other != lane]
        return woken

    def _try(
        self, rank: int, index: int, instr: Instr, ready: float, start: float
    ) -> list[tuple[int, int, float, float, float]] | None:
        """(rank, index, post, start, done) of what ends now, or None if it must wait."""
        if instr.op.is_collective:
            return self._meet(rank, index, instr, ready, start)
        if instr.op.is_p2p:
            return self._message(rank, index, instr, ready, start)
        if instr.op == Op.WAIT:
            begun = self.free_at[rank, instr.lane]
            self.order.append(((rank, index),))
            return [(rank, index, begun, begun, start)]
        self.order.append(((rank, index),))
        return [(rank, index, ready, start, start + self.cost.seconds(rank, instr))]

    def _meet(
        self, rank: int, index: int, instr: Instr, ready: float, start: float
    ) -> list[tuple[int, int, float, float, float]] | None:
        assert instr.axis is not None  # check() refuses a collective without one
        group = self.program.mesh.group(rank, instr.axis)
        key = (instr.axis, group, self.counts[instr.axis, group, rank])
        meeting = self.meetings.setdefault(key, _Meeting(len(group)))
        if rank not in meeting.came:
            meeting.came[rank] = (index, ready, start)
        if len(meeting.came) < meeting.needed:
            return None
        for member in group:
            self.counts[instr.axis, group, member] += 1
        del self.meetings[key]
        last = max(start for _, _, start in meeting.came.values())
        done = last + self.cost.seconds(rank, instr)
        self.order.append(tuple((member, at) for member, (at, _, _) in meeting.came.items()))
        came = meeting.came.items()
        return [(member, at, post, begun, done) for member, (at, post, begun) in came]

    def _message(
        self, rank: int, index: int, instr: Instr, ready: float, start: float
    ) -> list[tuple[int, int, float, float, float]] | None:
        assert instr.peer is not None  # check() refuses a message without one
        sends = instr.op == Op.SEND
        pair = (rank, instr.peer) if sends else (instr.peer, rank)
        number = self.counts["p2p", pair, sends]
        key = (*pair, number)
        if sends and not self.rendezvous:
            done = start + self.cost.seconds(rank, instr)
            self.arrived[key] = done
            self.counts["p2p", pair, sends] += 1
            self.order.append(((rank, index),))
            return [(rank, index, ready, start, done), *self._late_receive(key)]
        if not sends and key in self.arrived:
            self.counts["p2p", pair, sends] += 1
            self.order.append(((rank, index),))
            return [(rank, index, ready, start, max(start, self.arrived.pop(key)))]
        meeting = self.meetings.setdefault(("p2p", *key), _Meeting(2))
        meeting.came.setdefault(rank, (index, ready, start))
        if len(meeting.came) < 2 or not self.rendezvous:
            return None
        del self.meetings["p2p", *key]
        self.counts["p2p", pair, True] += 1
        self.counts["p2p", pair, False] += 1
        done = max(came[2] for came in meeting.came.values()) + self.cost.seconds(rank, instr)
        both = sorted(meeting.came.items(), key=lambda end: end[0] != pair[0])
        self.order.append(tuple((member, at) for member, (at, _, _) in both))
        return [(member, at, post, begun, done) for member, (at, post, begun) in both]

    def _late_receive(
        self, key: tuple[int, int, int]
    ) -> list[tuple[int, int, float, float, float]]:
        """The receive that already stood waiting for this buffered send, if there is one."""
        meeting = self.meetings.pop(("p2p", *key), None)
        if meeting is None:
            return []
        receiver = key[1]
        index, post, start = meeting.came[receiver]
        self.counts["p2p", key[:2], False] += 1
        self.order.append(((receiver, index),))
        return [(receiver, index, post, start, max(start, self.arrived.pop(key)))]

    def _finish(
        self, rank: int, index: int, post: float, start: float, done: float
    ) -> list[tuple[int, Lane]]:
        """Book one instruction's end; the lanes that may go on because of it."""
        instr = self.program.ranks[rank][index]
        lane = (rank, instr.lane)
        self.at[lane] += 1
        self.free_at[lane] = done
        woken = [lane]
        for value in instr.writes:
            self.written[rank][value] = done
            woken += self.waiting.pop((rank, value), [])
        self.live[rank] += sum(self.cost.bytes(value) for value in instr.writes)
        self.live[rank] -= sum(self.cost.bytes(value) for value in instr.frees)
        payload = self.cost.payload(instr) if instr.op.is_message else 0
        times = (round(post * 1e9), round(start * 1e9), round(done * 1e9))
        busy = times[2] - times[1] if instr.lane == Lane.COMPUTE and instr.op != Op.WAIT else 0
        self.notes[rank].append((0, index, *times, busy, payload, self.live[rank]))
        return woken

    def _deadlock(self) -> str:
        stands = []
        for (rank, lane), queue in sorted(self.queues.items()):
            if self.at[rank, lane] < len(queue):
                instr = self.program.ranks[rank][queue[self.at[rank, lane]]]
                missing = [str(x) for x in instr.reads if x not in self.written[rank]]
                peer = f" <>{instr.peer}" if instr.peer is not None else ""
                wants = f" for {missing[0]}" if missing else peer
                stands.append(f"rank {rank} ({lane.value}) waits at {instr.label}{wants}")
        return "deadlock: " + "; ".join(stands)

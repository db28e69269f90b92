"""The clockwork of the simulator: lanes in order, what they wait for, and the time.

Each lane runs until it meets something that is not there yet, and whatever brings that wakes it:
one visit an instruction, and no event queue. Lanes may run ahead of one another, for what a lane
does depends on what it waits for and on nothing else.

Links do depend on who comes first, so they serve in order of time (network.py), and only when no
lane can go on. The first to ask then is the first there will be: whoever is not on its way yet
waits for something that has not arrived, and will ask later.
"""

from __future__ import annotations

from collections.abc import Hashable

from parallel_core.cost import Cost
from parallel_core.network import Landing, Message, Traffic
from parallel_core.numbered import Does, Numbered
from parallel_core.program import Lane, ProgramError

_WORK, _WAIT, _MEET, _SEND, _RECV = Does
NEVER = -1.0
"""The time at which a value is written that is not written yet."""


class Run:
    """One run of a program in numbers; all times are seconds.

    `post`, `start`, `done` hold the times of every instruction once `finish` has been called,
    `order` an order in which they can run, those that meet together.
    """

    def __init__(
        self,
        work: Numbered,
        cost: Cost,
        *,
        rendezvous: bool = False,
        traffic: Traffic | None = None,
    ) -> None:
        self.work, self.cost, self.rendezvous, self.traffic = work, cost, rendezvous, traffic
        self.first = work.first_of_ranks()
        count = len(work.instrs)
        self.post, self.start, self.done = [0.0] * count, [0.0] * count, [0.0] * count
        self.queues = [queue for _, _, queue in work.lanes]
        self.computes = {i for i, lane in enumerate(work.lanes) if lane[1] is Lane.COMPUTE}
        self.at, self.free = [0] * len(self.queues), [0.0] * len(self.queues)
        self.written = [NEVER] * len(work.values)
        for held in work.held:
            for slot in held:
                self.written[slot] = 0.0
        self.ready = list(range(len(self.queues)))  # lanes that may go on
        self.waiting: dict[int, list[int]] = {}  # slot -> lanes that need it
        self.standing: dict[int, list[int]] = {}  # meeting -> the ends that have come
        self.landed: dict[int, tuple[float, float]] = {}  # meeting -> arrival, time on the wire
        self.queued: dict[int, Hashable] = {}  # send -> the link it had to wait for
        self.order: list[tuple[int, ...]] = []

    def finish(self) -> None:
        """Run every lane to its end; ProgramError if one never gets there."""
        while self.ready or self._land():
            while self.ready:
                self._advance(self.ready.pop())
        if any(at < len(queue) for at, queue in zip(self.at, self.queues, strict=True)):
            raise ProgramError(self._deadlock())

    def _advance(self, lane: int) -> None:
        """Run one lane until it must wait."""
        reads, written = self.work.reads, self.written
        queue, at = self.queues[lane], self.at
        while at[lane] < len(queue):
            number = queue[at[lane]]
            ready = 0.0
            for slot in reads[number]:
                when = written[slot]
                if when == NEVER:
                    self.waiting.setdefault(slot, []).append(lane)
                    return
                if when > ready:
                    ready = when
            free = self.free[lane]
            start = ready if ready > free else free
            # a compute lane asks for a message when it gets there
            asked = ready if reads[number] or lane not in self.computes else start
            self.post[number], self.start[number] = asked, start
            if not self._take(number):
                return

    def _take(self, number: int) -> bool:
        """Begin one instruction; False if its lane must wait until it is woken."""
        does = self.work.does[number]
        if does == _WORK:
            self.order.append((number,))
            self._end(number, self.start[number] + self._seconds(number))
        elif does == _WAIT:
            self.order.append((number,))
            done = self.start[number]
            self.post[number] = self.start[number] = self.free[self.work.lane[number]]
            self._end(number, done)
        elif does == _MEET or self.rendezvous:
            self._meet(number)
            return False
        elif does == _SEND:
            return self._send(number)
        else:
            return self._receive(number)
        return True

    def _seconds(self, number: int) -> float:
        return self.cost.seconds(self.work.rank[number], self.work.instrs[number])

    def _meet(self, number: int) -> None:
        """A collective, or a message whose ends wait for each other."""
        meeting, does = self.work.meeting[number], self.work.does
        came = self.standing.setdefault(meeting, [])
        came.append(number)
        if len(came) < self.work.needed[meeting]:
            return
        begun = max([self.start[end] for end in came])
        if does[number] != _MEET:
            came.sort(key=does.__getitem__)  # the send first
            if self.traffic is not None:
                self._enter(came[0], begun)
                return
            number = came[0]
        away = self.cost.latency if does[number] != _MEET else 0.0
        self._end_together(meeting, begun + self._seconds(number) + away)

    def _end_together(self, meeting: int, done: float) -> None:
        """End all who met, and wake their lanes."""
        came = self.standing.pop(meeting)
        self.order.append(tuple(came))
        for end in came:
            self._end(end, done)
            self.ready.append(self.work.lane[end])

    def _send(self, number: int) -> bool:
        """A buffered send: the bytes go out whether or not anybody receives them yet."""
        if self.traffic is not None:
            self._enter(number, self.start[number])
            return False
        wire = self._seconds(number)
        done = self.start[number] + wire
        self.order.append((number,))
        self._end(number, done)
        self._arrive(self.work.meeting[number], done + self.cost.latency, wire)
        return True

    def _receive(self, number: int) -> bool:
        meeting = self.work.meeting[number]
        if meeting not in self.landed:
            self.standing[meeting] = [number]
            return False
        self._take_in(number, *self.landed.pop(meeting))
        return True

    def _arrive(self, meeting: int, arrival: float, wire: float) -> None:
        """A buffered message is there: for a receive that stands waiting, or for a later one."""
        standing = self.standing.pop(meeting, None)
        if standing is None:
            self.landed[meeting] = (arrival, wire)
        else:
            self._take_in(standing[0], arrival, wire)
            self.ready.append(self.work.lane[standing[0]])

    def _take_in(self, number: int, arrival: float, wire: float) -> None:
        """End a receive; a port takes in one message at a time, each for its time on the wire."""
        start = self.start[number]
        port = self.work.instrs[number].lane == Lane.IN
        self.order.append((number,))
        self._end(number, max(arrival, start + wire if port else start))

    def _enter(self, send: int, time: float) -> None:
        """Hand a message to the links."""
        assert self.traffic is not None
        rank, peers = self.work.rank[send], self.work.peers[send]
        size = self.cost.payload(self.work.instrs[send])
        self.traffic.enter(Message(send, rank, send - self.first[rank], peers[1], size, time))

    def _land(self) -> bool:
        """Let the links carry the next messages home; False if none is on its way."""
        landings = [] if self.traffic is None else self.traffic.next()
        for landing in landings:
            self._deliver(landing)
        return bool(landings)

    def _deliver(self, landing: Landing) -> None:
        send = landing.number
        if landing.busy is not None:
            self.start[send] = max(self.start[send], landing.begun)
            self.queued[send] = landing.busy
        meeting = self.work.meeting[send]
        if self.rendezvous:
            self._end_together(meeting, landing.arrival)
            return
        self.order.append((send,))
        self._end(send, landing.out)
        self.ready.append(self.work.lane[send])
        self._arrive(meeting, landing.arrival, landing.wire)

    def _end(self, number: int, done: float) -> None:
        """Book one instruction's end and wake the lanes that wait for what it wrote."""
        lane = self.work.lane[number]
        self.done[number] = done
        self.at[lane] += 1
        self.free[lane] = done
        for slot in self.work.writes[number]:
            self.written[slot] = done
            if slot in self.waiting:
                self.ready += self.waiting.pop(slot)

    def _deadlock(self) -> str:
        stands = []
        lanes = sorted(enumerate(self.work.lanes), key=lambda lane: lane[1][:2])
        for lane, (rank, name, queue) in lanes:
            if self.at[lane] < len(queue):
                number = queue[self.at[lane]]
                instr, slots = self.work.instrs[number], self.work.reads[number]
                missing = [self.work.values[x] for x in slots if self.written[x] == NEVER]
                peer = f" <>{instr.peer}" if instr.peer is not None else ""
                wants = f" for {missing[0]}" if missing else peer
                stands.append(f"rank {rank} ({name.value}) waits at {instr.label}{wants}")
        return "deadlock: " + "; ".join(stands)

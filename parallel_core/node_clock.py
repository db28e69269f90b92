"""The clocks of several machines, laid together: how far each is off, and how sure that is.

Ranks of one machine share a monotonic clock. Another machine's began at another moment and runs a
little faster or slower, so its times mean nothing beside ours. A message to and fro tells:

    node 0    t0 ------.                  .--> t3        off  = ((t1 - t0) + (t2 - t3)) / 2
    node j              `--> t1 ... t2 --'               trip = (t3 - t0) - (t2 - t1)

How the trip is shared between the two ways cannot be known, so `off` is uncertain by half of it;
of many trips the shortest says most (Mills, RFC 5905). It is measured before a run and after it,
and taken to drift evenly in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from parallel_core.quantities import time_text
from parallel_core.trace import NodeOffset

TRIPS = 64
Clock = Callable[[], int]
Times = tuple[int, int, int, int]
"""t0 and t3 of the reference, t1 and t2 of the other, as (t0, t1, t2, t3); nanoseconds."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A clock against the reference: at `at_ns` of its own time it was `off_ns` ahead.

    It is certain to `unsure_ns`, half of the shortest round trip.
    """

    at_ns: int
    off_ns: int
    unsure_ns: int


def reading(trips: Sequence[Times]) -> Reading:
    """The reading of the shortest of some round trips.

    >>> reading([(0, 5_040, 5_060, 100), (1_000, 6_900, 6_910, 2_000)])
    Reading(at_ns=5050, off_ns=5000, unsure_ns=40)
    """
    t0, t1, t2, t3 = min(trips, key=lambda t: (t[3] - t[0]) - (t[2] - t[1]))
    long = max((t3 - t0) - (t2 - t1), 0)
    return Reading(
        at_ns=(t1 + t2) // 2, off_ns=((t1 - t0) + (t2 - t3)) // 2, unsure_ns=(long + 1) // 2
    )


@dataclass(frozen=True, kw_only=True)
class NodeClock:
    """One node's clock over a run: what it read before and after."""

    node: int
    before: Reading
    after: Reading

    @property
    def unsure_ns(self) -> int:
        """How far a shifted time may be wrong, either way."""
        return max(self.before.unsure_ns, self.after.unsure_ns)

    def shifted(self, t: int) -> int:
        """A time of this node on the reference's clock; both nanoseconds."""
        first, last = self.before, self.after
        span = last.at_ns - first.at_ns
        part = min(max((t - first.at_ns) / span, 0.0), 1.0) if span > 0 else 0.0
        return t - first.off_ns - round(part * (last.off_ns - first.off_ns))

    def shift_notes(self, notes: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """A rank's notes (recording.Note) on the reference's clock."""
        return [self._note(note) for note in notes]

    def _note(self, note: Sequence[Any]) -> list[Any]:
        step, index, *times = note[:5]
        rest = list(note[5:])
        if len(rest) > 3:  # what happened inside has times of its own
            rest[3] = [
                (op, axis, size, self.shifted(start), self.shifted(done))
                for op, axis, size, start, done in rest[3]
            ]
        return [step, index, *map(self.shifted, times), *rest]

    def __str__(self) -> str:
        sign = "+" if self.before.off_ns >= 0 else "-"
        off, unsure = time_text(abs(self.before.off_ns)), time_text(self.unsure_ns)
        return f"node {self.node} was {sign}{off}, ± {unsure}"

    def as_json(self) -> dict[str, Any]:
        """The JSON form, nanoseconds."""
        return {**asdict(self), "unsure_ns": self.unsure_ns}


def words(clocks: Sequence[NodeClock]) -> str:
    """What a trace of several machines says of its clocks."""
    each = "; ".join(map(str, clocks))
    return f"{len(clocks) + 1} nodes on the clock of node 0: {each} (ping-pong, half a round trip)"


def offsets(clocks: Sequence[NodeClock], nodes: Sequence[int]) -> tuple[NodeOffset, ...]:
    """The clocks as a trace carries them; `nodes` is the node of every rank."""
    return tuple(
        NodeOffset(
            node=clock.node,
            ranks=tuple(rank for rank, node in enumerate(nodes) if node == clock.node),
            off_ns=clock.before.off_ns,
            unsure_ns=clock.unsure_ns,
        )
        for clock in clocks
    )


class Clocks:
    """The reference's side, or another node's, of measuring clocks: a collective of all ranks.

    `nodes` is the node of every rank; the first rank of a node answers for it. The messages go
    over gloo, which times them on the processor, whatever the run itself uses.
    """

    def __init__(
        self, rank: int, nodes: Sequence[int], *, clock: Clock = time.perf_counter_ns
    ) -> None:
        self._rank, self._clock = rank, clock
        self._first = {node: list(nodes).index(node) for node in sorted(set(nodes))}
        self._reference = nodes[0]
        self._group = dist.new_group(backend="gloo")

    def read(self, trips: int = TRIPS) -> dict[int, Reading]:
        """Every other node's clock against that of rank 0's node; empty on all other ranks."""
        found = {}
        for node, peer in self._first.items():
            if node == self._reference:
                continue
            if self._rank == 0:
                found[node] = reading([self._ask(peer) for _ in range(trips)])
            elif self._rank == peer:
                for _ in range(trips):
                    self._answer()
        dist.barrier(group=self._group)
        return found

    def _ask(self, peer: int) -> Times:
        told = torch.zeros(2, dtype=torch.int64)
        t0 = self._clock()
        dist.send(told, peer, group=self._group)
        dist.recv(told, peer, group=self._group)
        t3 = self._clock()
        return t0, int(told[0]), int(told[1]), t3

    def _answer(self) -> None:
        asked = torch.zeros(2, dtype=torch.int64)
        dist.recv(asked, 0, group=self._group)
        asked[0] = self._clock()
        asked[1] = self._clock()
        dist.send(asked, 0, group=self._group)


def node_clocks(before: Mapping[int, Reading], after: Mapping[int, Reading]) -> list[NodeClock]:
    """The clocks of the nodes that were read before and after a run."""
    return [NodeClock(node=n, before=before[n], after=after[n]) for n in sorted(before)]

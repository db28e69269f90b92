"""Who waits for whom: the wait-for graph of ranks that stand in messages, and its deadlocks.

Nouns. A *stand* is where a rank is: it runs, it waits in a message, or it has ended. Messages are
numbered within a *channel* (a group of ranks, or a pair in one direction): the k-th call of one
member meets the k-th of the others. An *arrow* goes from a rank that waits to one it waits for.

A rank that waits needs every rank it waits for. So one that runs may go on, one that has ended
will post nothing more, and one that waits may go on if all it waits for may. Who may not is
deadlocked: it stands in a circle, or on a way that leads to a circle or to a rank that has ended.

    circle     rank 0 --> rank 1 --> rank 0          dead end     rank 0 --> rank 3 (has ended)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any


class State(StrEnum):
    """What a rank does."""

    RUNS = "runs"
    WAITS = "waits"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where one rank stands, and what it has posted so far.

    For a rank that waits: the call (`op`, `what`), its `channel`, the channel's `members`, the
    call's `number` there from 1, and since when (`waited_s`, seconds). `posted` holds of every
    channel how many calls the rank has posted, and the op of the last.
    """

    rank: int
    state: State = State.RUNS
    op: str = ""
    what: str = ""
    channel: str = ""
    members: tuple[int, ...] = ()
    number: int = 0
    waited_s: float = 0.0
    posted: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """`waits at send act mb1 to rank 1`, `has ended`, `runs`."""
        if self.state != State.WAITS:
            return "has ended" if self.state == State.ENDED else "runs"
        call = " ".join(part for part in (self.op, self.what) if part)
        return f"waits at {call} {self._over}"

    @property
    def _over(self) -> str:
        if self.op == "send":
            return f"to rank {self.members[1]}"
        return f"from rank {self.members[0]}" if self.op == "recv" else f"over {self.channel}"

    def as_json(self) -> dict[str, Any]:
        """The JSON form; `Stand.of` reads it back."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Stand:
        """The stand written by `as_json`."""
        posted = {channel: (int(n), str(op)) for channel, (n, op) in data["posted"].items()}
        state, members = State(data["state"]), tuple(data["members"])
        return cls(**{**data, "state": state, "members": members, "posted": posted})


@dataclass(frozen=True)
class Arrow:
    """Rank `waiter` waits for rank `peer`; `why` says what is missing."""

    waiter: int
    peer: int
    why: str


@dataclass(frozen=True)
class WaitFor:
    """The wait-for graph of one moment: a stand a rank, in rank order."""

    stands: tuple[Stand, ...]

    @cached_property
    def arrows(self) -> tuple[Arrow, ...]:
        """Who waits for whom, in rank order."""
        return tuple(arrow for stand in self.stands for arrow in self._arrows_of(stand))

    @cached_property
    def deadlocked(self) -> tuple[int, ...]:
        """The ranks that can never go on, whatever those that run will do."""
        may = {stand.rank for stand in self.stands if stand.state == State.RUNS}
        waits = {stand.rank for stand in self.stands if stand.state == State.WAITS}
        while free := {rank for rank in waits - may if self._peers(rank) <= may}:
            may |= free
        return tuple(sorted(waits - may))

    @cached_property
    def circle(self) -> tuple[int, ...]:
        """A shortest circle of ranks that wait for one another; empty if there is none."""
        found = [path for rank in self.deadlocked if (path := self._back_to(rank))]
        return min(found, key=len, default=())

    @cached_property
    def ended(self) -> tuple[int, ...]:
        """The ranks that have ended although a deadlocked one waits for them."""
        stuck = set(self.deadlocked)
        gone = {stand.rank for stand in self.stands if stand.state == State.ENDED}
        return tuple(sorted({a.peer for a in self.arrows if a.waiter in stuck} & gone))

    @property
    def sentence(self) -> str:
        """The finding in one sentence: every rank's place, and what holds them."""
        if not self.deadlocked:
            return "no deadlock: every rank that waits, waits for one that can still go on"
        places = "; ".join(f"rank {s.rank} {s.place}" for s in self.stands)
        return f"deadlock: {places}; {self._held_by()}"

    def _held_by(self) -> str:
        if self.circle:
            ranks = " -> ".join(map(str, (*self.circle, self.circle[0])))
            return f"they wait in a circle, {ranks}"
        names = ", ".join(map(str, self.ended))
        who = f"rank {names}" if len(self.ended) == 1 else f"ranks {names}"
        return f"{who} will never come: look there first"

    def _arrows_of(self, stand: Stand) -> Iterable[Arrow]:
        if stand.state != State.WAITS:
            return
        for peer in stand.members:
            if peer != stand.rank and (why := self._missing(stand, self.stands[peer])):
                yield Arrow(stand.rank, peer, why)

    @staticmethod
    def _missing(stand: Stand, peer: Stand) -> str:
        """What `stand` still needs of its peer; empty if nothing."""
        count, op = peer.posted.get(stand.channel, (0, ""))
        if count < stand.number:
            needs = {"send": "recv", "recv": "send"}.get(stand.op, stand.op)
            return f"has not posted {needs} number {stand.number} of {stand.channel}"
        ends = {op, stand.op}
        if count > stand.number or len(ends) == 1 or ends == {"send", "recv"}:
            return ""
        return f"posted {op} as number {stand.number} of {stand.channel}"

    def _peers(self, rank: int) -> set[int]:
        return {arrow.peer for arrow in self.arrows if arrow.waiter == rank}

    def _back_to(self, start: int) -> tuple[int, ...]:
        """A shortest way along the arrows from a rank back to itself."""
        ways: list[tuple[int, ...]] = [(start,)]
        seen: set[int] = set()
        while ways:
            way = ways.pop(0)
            for peer in sorted(self._peers(way[-1])):
                if peer == start:
                    return way
                if peer not in seen:
                    seen.add(peer)
                    ways.append((*way, peer))
        return ()

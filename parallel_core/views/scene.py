"""A collective as a scene: tiles that ranks hold, and messages that travel from one to another.

Nouns. A *slot* is a place for a tile on a rank; a tile is what the rank holds of one chunk just
now: its own input, a partial sum, the sum. A *moment* of a slot says from when on which ranks'
contributions are in it. A message is *ready* when what it carries is there, *begins* when both
ports and the first link are free, and is *done* when it has arrived; between ready and begin it
stands in a queue, and `why` says for whom.

All times are nanoseconds since the trace's start; a set of ranks is a number with a bit per rank.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from parallel_core.network import Hop
from parallel_core.program import Instr, Op, Program, Value
from parallel_core.quantities import time_text
from parallel_core.trace import Span, Trace
from parallel_core.views.by_hand import by_hand

if TYPE_CHECKING:
    from parallel_core.terms import Bag, Term

MOST_RANKS = 32
"""More ranks than this, and their tiles are too small to be looked at."""

MOST_NUMBERS = 8
"""Up to so many ranks the sums are spelled out."""

_IN_PLACE = frozenset({"x", "part", "sum"})

Slot = tuple[int, str, tuple[int, ...]]
"""(row on the card, kind, indices)."""

Moment = tuple[int, int, int | None, bool]
"""From when, whose contributions, the small integer, whether it is what was promised."""


@dataclass(frozen=True)
class Message:
    """One message; `why` it stood in a queue, "" where it did not. `at` is its send's index."""

    source: int
    target: int
    at: int
    ready: int
    begin: int
    done: int
    bytes: int
    values: tuple[Value, ...]
    arrives: tuple[Value, ...]
    why: str
    way: tuple[tuple[int, int], ...] = ()  # (when its middle is there, vertex), over several links


def number(rank: int, value: Value) -> int:
    """The small integer that stands for an input: 1 to 9, the same in every scene.

    >>> number(0, Value("x", (0,))), number(1, Value("x", (0,)))
    (1, 4)
    """
    return (3 * rank + 5 * value.at[0]) % 9 + 1


def _term(rank: int, value: Value) -> Term:
    return (value.name, rank, value.at[0])


class Told:
    """A program and a trace of it, joined: who held what when, and what travelled.

    `ends` are the terms promised per rank and value (collectives.promise). The trace is one run.
    """

    def __init__(
        self,
        program: Program,
        trace: Trace,
        ends: Sequence[Mapping[Value, frozenset[Term]]],
        hops: Iterable[Hop] = (),
    ) -> None:
        n = program.mesh.size
        if n > MOST_RANKS:
            raise ValueError(f"{n} ranks are too many to look at; draw {MOST_RANKS} at most")
        if len(trace.steps) > 1:
            raise ValueError("a scene is one run; take one step of the trace: trace.only(step)")
        self.program, self.trace, self.ends, self.ranks = program, trace, ends, range(n)
        self.start = trace.start
        self.span = {(s.rank, s.index): s for s in trace.spans}
        starts = [{v: Counter([_term(r, v)]) for v in program.holds[r]} for r in self.ranks]
        self.bags: list[dict[Value, Bag]] = by_hand(program, starts, lambda b: sum(b, Counter()))
        inputs = [{v: number(r, v) for v in program.holds[r]} for r in self.ranks]
        self.numbers = by_hand(program, inputs, sum)
        self.hops: dict[tuple[int, int], list[Hop]] = defaultdict(list)
        for hop in hops:
            self.hops[hop.rank, hop.at].append(hop)
        self.added = [_added(program, rank) for rank in self.ranks]
        self._known: dict[int, dict[Slot, list[Moment]]] = {}
        self._before = {key: span for rank in self.ranks for key, span in self._last_on_port(rank)}

    # -- what a value is ------------------------------------------------------------------------

    def slot(self, rank: int, value: Value) -> Slot | None:
        """Where a value lies on its rank; None for one that only waits to be added."""
        if value.name in _IN_PLACE:
            return (0, "chunk", value.at[:1])
        if value in self.added[rank]:
            return None
        if value.name == "block":
            destination, source = value.at
            row = 1 if destination == rank else 0 if source == rank else 2
            return (row, "block", (source, destination))
        return (int(value.name == "got"), value.name, value.at)

    def whose(self, rank: int, value: Value) -> int:
        """The ranks whose contributions it holds, a bit each."""
        return sum(1 << r for r in {r for _, r, _ in self.bags[rank][value]})

    def small(self, rank: int, value: Value) -> int | None:
        """The small integer it stands for; None for words, and where there are many ranks."""
        spelled = len(self.ranks) <= MOST_NUMBERS and value.name != "here"
        return self.numbers[rank][value] if spelled else None

    def right(self, rank: int, value: Value) -> bool:
        """Whether it is promised to its rank, and holds just what was promised, each term once."""
        terms = self.ends[rank].get(value)
        return terms is not None and self.bags[rank][value] == Counter(terms)

    @cached_property
    def wanted(self) -> dict[Slot, int]:
        """Slot -> all contributions that somebody is promised of it, a bit a rank."""
        found: dict[Slot, int] = defaultdict(int)
        for rank, ends in enumerate(self.ends):
            for value, terms in ends.items():
                slot = self.slot(rank, value)
                if slot is not None:
                    found[0, *slot[1:]] |= sum(1 << r for r in {r for _, r, _ in terms})
        return found

    # -- what happens ---------------------------------------------------------------------------

    def moments(self, rank: int) -> dict[Slot, list[Moment]]:
        """Per slot what lies there from when on: the youngest of its values that exist."""
        if rank not in self._known:
            self._known[rank] = self._all_moments(rank)
        return self._known[rank]

    def _all_moments(self, rank: int) -> dict[Slot, list[Moment]]:
        lives: dict[Slot, list[tuple[int, float, Value]]] = defaultdict(list)
        for value, (born, gone) in self._lives(rank).items():
            slot = self.slot(rank, value)
            if slot is not None:
                lives[slot].append((born, gone, value))
        return {slot: self._moments(rank, lives[slot]) for slot in sorted(lives)}

    def _moments(self, rank: int, lives: list[tuple[int, float, Value]]) -> list[Moment]:
        out: list[Moment] = []
        whens = {born for born, _, _ in lives} | {int(g) for _, g, _ in lives if g != float("inf")}
        for when in sorted(whens):
            there = [life for life in lives if life[0] <= when < life[1]]
            if not there:
                out.append((when, 0, None, False))
                continue
            value = max(there, key=lambda life: (life[0], sum(self.bags[rank][life[2]].values())))[
                2
            ]
            held = (self.whose(rank, value), self.small(rank, value), self.right(rank, value))
            if not out or out[-1][1:] != held:
                out.append((when, *held))
        return out

    def _lives(self, rank: int) -> dict[Value, tuple[int, float]]:
        """Value -> from when until when it exists on its rank."""
        born = dict.fromkeys(self.program.holds[rank], 0)
        gone: dict[Value, float] = {}
        for index, instr in enumerate(self.program.ranks[rank]):
            done = self.when(self.span[rank, index].t_done)
            born |= dict.fromkeys(instr.writes, done)
            gone |= dict.fromkeys(instr.frees, done)
        return {value: (at, gone.get(value, float("inf"))) for value, at in born.items()}

    def standing(self, rank: int) -> list[tuple[Slot, int, int, Value]]:
        """What has come and waits to be added: the slot it goes to, from when until when, what."""
        lives = self._lives(rank)
        return [
            ((0, "chunk", value.at[:1]), at, int(gone), value)
            for value, (at, gone) in lives.items()
            if value in self.added[rank] and value.name not in _IN_PLACE and gone != float("inf")
        ]

    def additions(self) -> list[tuple[int, int, Slot, str]]:
        """(when, rank, slot, "12 + 7 = 19") of every sum made; "" above eight ranks."""
        found = []
        for rank, index, instr in self.program:
            if instr.op == Op.ADD:
                when = self.when(self.span[rank, index].t_done)
                for c, value in enumerate(instr.writes):
                    found.append((when, rank, self._sum_slot(value), self.sum_text(rank, instr, c)))
        return sorted(found, key=lambda row: row[:2])

    @staticmethod
    def _sum_slot(value: Value) -> Slot:
        return (0, "chunk", value.at[:1])

    def sum_text(self, rank: int, instr: Instr, column: int) -> str:
        """One column of an addition in small integers."""
        if self.small(rank, instr.writes[column]) is None:
            return ""
        operands = instr.reads[column :: len(instr.writes)]
        terms = " + ".join(str(self.numbers[rank][value]) for value in operands)
        return f"{terms} = {self.numbers[rank][instr.writes[column]]}"

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """Every message, by the time it is done."""
        ends: dict[tuple[int, int], list[list[tuple[int, Instr]]]] = defaultdict(lambda: [[], []])
        for rank, index, instr in self.program:
            if instr.op.is_p2p and instr.peer is not None:
                pair = (rank, instr.peer) if instr.op == Op.SEND else (instr.peer, rank)
                ends[pair][instr.op == Op.RECV].append((index, instr))
        found = [
            self._message(pair, send, recv)
            for pair, (sends, recvs) in ends.items()
            for send, recv in zip(sends, recvs, strict=True)
        ]
        return tuple(sorted(found, key=lambda m: (m.done, m.begin, m.source, m.target)))

    def _message(
        self, pair: tuple[int, int], send: tuple[int, Instr], recv: tuple[int, Instr]
    ) -> Message:
        source, target = pair
        out, into = self.span[source, send[0]], self.span[target, recv[0]]
        hops = self.hops.get((source, send[0]), [])
        begin = hops[0].began if hops else max(out.t_start, into.t_start)
        done = max(into.t_done, begin)
        ready = min(out.t_post, begin)
        why = "" if begin - ready <= 0.02 * (done - ready) else self._why(out, into, begin)
        return Message(
            source, target, send[0], self.when(ready), self.when(begin), self.when(done),
            out.bytes, send[1].reads, recv[1].writes, why, self._way(hops, into.t_done),
        )  # fmt: skip

    def _why(self, out: Span, into: Span, begin: int) -> str:
        """For whom a message stood in a queue: the longest of its own port, the other's, a link."""
        long = time_text(begin - out.t_post)
        if out.source:
            return f"{long}, {out.source}"
        own = out.t_start - out.t_post >= into.t_start - out.t_start
        port = out if own else into
        before = self._before.get((port.rank, port.index))
        if before is None or before.t_done <= out.t_post:
            return f"{long}: rank {port.rank} had not come to it"
        if own:
            return f"{long}: its own port was still sending to rank {before.peers[-1]}"
        return f"{long}: rank {into.rank} was still taking in what rank {before.peers[0]} sent"

    def _last_on_port(self, rank: int) -> Iterator[tuple[tuple[int, int], Span]]:
        """(rank, index) of a message -> what the same port did just before."""
        last: dict[Op, int] = {}
        for index, instr in enumerate(self.program.ranks[rank]):
            if instr.op in last:
                yield (rank, index), self.span[rank, last[instr.op]]
            if instr.op.is_p2p:
                last[instr.op] = index

    def _way(self, hops: list[Hop], done: int) -> tuple[tuple[int, int], ...]:
        """When the middle of a message is where, if it takes more than one link."""
        if len(hops) < 2:
            return ()
        links = [hop.link for hop in hops]
        way = [(hops[0].began, _end(links[0], 0))]
        way += [((hop.began + hop.ended) // 2, _end(hop.link, 0)) for hop in hops[1:]]
        return tuple((self.when(t), at) for t, at in (*way, (done, _end(links[-1], 1))))

    def when(self, t: int) -> int:
        """Nanoseconds since the trace's start."""
        return max(t - self.start, 0)


def _end(link: object, which: int) -> int:
    assert isinstance(link, tuple)  # unfolded networks name links by their vertices
    return int(link[which])


def _added(program: Program, rank: int) -> frozenset[Value]:
    """What a rank's additions read."""
    adds = [instr for instr in program.ranks[rank] if instr.op == Op.ADD]
    return frozenset(value for instr in adds for value in instr.reads)

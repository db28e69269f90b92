"""The clock of a collective's program: what simulate needs to lay it out under alpha-beta.

    seconds   a message takes its link's time; an addition the bytes it writes over a rate, or 0
    bytes     a value is as large as its chunk

A message holds its sender's port and its receiver's until it is over, so what goes to one rank
queues there: a naive gather takes n-1 messages' time though all are sent at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from parallel_core.collectives.names import value_sizes
from parallel_core.cost import Link, message_bytes
from parallel_core.program import Instr, Op, Program, Value
from parallel_core.trace import Kind

Wires = Callable[[int, int], Link]
"""(source, destination) -> the link between them."""

Meeting = tuple[int, int, str]
"""source, destination, step."""


@dataclass(frozen=True)
class CollectiveCost:
    """A Cost for one program: sizes by chunk, links by pair of ranks.

    `together` says how many messages of a step share a port; where it is not empty their latencies
    overlap, and each pays its part of one alpha. `rate` is bytes added a second, 0 for free adds.
    """

    size: Callable[[Value], int]
    wires: Wires
    text: str
    rate: float = 0.0
    together: Mapping[Meeting, int] = field(default_factory=dict)
    kind: Kind = Kind.MODELLED
    latency: float = 0.0

    def seconds(self, rank: int, instr: Instr) -> float:
        """A message's time on its link; an addition's bytes over the rate."""
        if instr.op == Op.ADD and self.rate:
            return sum(map(self.size, instr.writes)) / self.rate
        if not instr.op.is_p2p or instr.peer is None:
            return 0.0
        ends = (rank, instr.peer) if instr.op == Op.SEND else (instr.peer, rank)
        link = self.wires(*ends)
        alone = link.seconds(Op.SEND, self.payload(instr), 2)
        shared = self.together.get((*ends, instr.where), 1)
        return alone - link.alpha * (1 - 1 / shared)

    def bytes(self, value: Value) -> int:
        """Bytes of the value's chunk."""
        return self.size(value)

    def payload(self, instr: Instr) -> int:
        """Bytes one message hands over."""
        return message_bytes(instr, self.size)


def collective_cost(
    program: Program,
    nbytes: int,
    link: Link | Wires | None,
    *,
    itemsize: int = 1,
    rate: float = 0.0,
    overlap: bool = False,
) -> CollectiveCost:
    """The clock of `program` on a buffer of `nbytes`, over one link or `two_level` ones.

    None where a network has the links: it knows how long a message takes, and only additions are
    asked for here. With `overlap` the messages of a step that share a port pay one alpha together.
    Raises ValueError where `itemsize` does not divide `nbytes`.
    """
    if nbytes % itemsize:
        raise ValueError(f"nbytes={nbytes} is no whole number of elements of {itemsize} bytes")
    over, wires = _over(link)
    words = [over, f"adds {f'at {rate / 1e9:.3g} GB/s' if rate else 'free'}"]
    words += ["latencies of a step overlap"] * (overlap and link is not None)
    return CollectiveCost(
        size=value_sizes(program, nbytes // itemsize, itemsize),
        wires=wires,
        text=", ".join(filter(None, words)),
        rate=rate,
        together=_together(program) if overlap else {},
    )


def two_level(node: int, inside: Link, across: Link) -> Wires:
    """One link inside nodes of `node` neighbouring ranks, another between them."""

    def wires(source: int, destination: int) -> Link:
        return inside if source // node == destination // node else across

    return wires


def _over(link: Link | Wires | None) -> tuple[str, Wires]:
    """The links in words, and the link of every pair of ranks."""
    if link is None:
        return "", no_link
    if isinstance(link, Link):
        return str(link), lambda source, destination: link
    return "two links", link


def no_link(source: int, destination: int) -> Link:
    """The wires of a program that runs on a network; RuntimeError, as nobody may ask for one."""
    raise RuntimeError(f"the link from {source} to {destination} belongs to the network")


def _together(program: Program) -> dict[Meeting, int]:
    """For each message, how many its busier end handles in the same step."""
    out: Counter[tuple[int, str]] = Counter()
    into: Counter[tuple[int, str]] = Counter()
    sends = [(rank, instr) for rank, _, instr in program if instr.op == Op.SEND]
    for rank, instr in sends:
        out[rank, instr.where] += 1
        into[instr.peer or 0, instr.where] += 1
    return {
        (rank, instr.peer or 0, instr.where): max(
            out[rank, instr.where], into[instr.peer or 0, instr.where]
        )
        for rank, instr in sends
    }

"""What a topology is: ranks, switches, directed links, and one route for every pair of ranks.

Nouns. A *vertex* is a rank's host (0 to ranks-1) or a switch (from `ranks` on). A *link* is one
direction of a cable, named (from, to). A *route* is the tuple of links a message takes; it is
always the same for the same pair, as in real static routing.

    bisection    cables cut by the narrowest cut that leaves half of the hosts on each side
    diameter     links of the longest route
    load         routes over a link when every rank has one message for every other
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from parallel_core.hardware.links import Wire

Link = tuple[int, int]
"""One direction of a cable: (from vertex, to vertex)."""


class Pace(NamedTuple):
    """How fast a link is: bytes/s, and seconds from its mouth to its end."""

    bandwidth: float
    latency: float


class Topology(ABC):
    """`ranks` hosts and the wires between them; subclasses say which, and which way a message goes.

    Two topologies are equal if their text and wires are.
    """

    kind: str
    ranks: int
    wire: Wire

    @property
    @abstractmethod
    def text(self) -> str:
        """What a reader types to get it: `torus:4x4`."""

    @property
    def vertices(self) -> int:
        """Hosts and switches together."""
        return self.ranks

    @property
    def wires(self) -> tuple[Wire, ...]:
        """The kinds of cable in it."""
        return (self.wire,)

    def name(self, vertex: int) -> str:
        """What to call a vertex: a host by its number, a switch by its level and number."""
        return str(vertex)

    @abstractmethod
    def links(self) -> Iterator[Link]:
        """Every link, each direction of a cable on its own."""

    @abstractmethod
    def route(self, source: int, target: int) -> tuple[Link, ...]:
        """The links from one host to another, in order; () from a host to itself."""

    @property
    @abstractmethod
    def bisection(self) -> int:
        """Cables in the narrowest cut between two halves of the hosts."""

    @abstractmethod
    def loads(self) -> dict[Link, int]:
        """One link of every kind -> routes over it when every rank writes to every other."""

    def pace(self, link: Link) -> Pace:
        """How fast that link is."""
        return Pace(self.wire.bandwidth, self.wire.latency)

    @property
    def bisection_bandwidth(self) -> float:
        """Bytes/s through the narrowest cut, one direction."""
        return self.bisection * self.wire.bandwidth

    @property
    def diameter(self) -> int:
        """Links of the longest route; every host sees the same, so those of host 0 do."""
        return max(len(self.route(0, other)) for other in range(self.ranks))

    def latency(self, source: int, target: int) -> float:
        """Seconds for the first byte along the route."""
        return sum(self.pace(link).latency for link in self.route(source, target))

    def all_to_all(self, size: float) -> float:
        """Least seconds for an all-to-all in which every rank hands over `size` bytes.

        size / ranks go to each, itself included (nccl-tests' count). The busiest link needs this
        long under the routes there are, however well the messages are ordered.
        """
        each = size / self.ranks
        busiest = max(
            (load * each / self.pace(link).bandwidth for link, load in self.loads().items()),
            default=0.0,
        )
        return busiest + max(self.latency(0, other) for other in range(self.ranks))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Topology):
            return False
        return (self.text, self.wires) == (other.text, other.wires)

    def __hash__(self) -> int:
        return hash((self.text, self.wires))

    def __str__(self) -> str:
        return f"{self.text} of {' and '.join(wire.title for wire in self.wires)}"


class Mesh(Topology):
    """A cable between every two ranks; `mesh:8`."""

    kind = "mesh"

    def __init__(self, ranks: int, wire: Wire) -> None:
        self.ranks, self.wire = ranks, wire

    @property
    def text(self) -> str:
        """`mesh:8`."""
        return f"mesh:{self.ranks}"

    def links(self) -> Iterator[Link]:
        """n(n-1) of them."""
        for a in range(self.ranks):
            yield from ((a, b) for b in range(self.ranks) if b != a)

    def route(self, source: int, target: int) -> tuple[Link, ...]:
        """The one link between them."""
        return () if source == target else ((source, target),)

    @property
    def bisection(self) -> int:
        """Every rank of one half with every rank of the other."""
        return (self.ranks // 2) * (self.ranks - self.ranks // 2)

    def loads(self) -> dict[Link, int]:
        """One route a link."""
        return {(0, 1): 1} if self.ranks > 1 else {}

"""Fat tree: hosts under leaf switches, every leaf under every spine; the tree thickens upward.

    fat-tree:8, leaves of 4        spine   s0   s1   s2   s3     (one cable to every leaf)
                                   leaf      l0         l1
                                   host    0 1 2 3    4 5 6 7

With as many cables up as down a leaf blocks nobody. `oversubscription=2` saves half of the cables
up, and half of the bandwidth between leaves with them. A message climbs to the spine that its
*target's* number names (destination-modulo routing, as InfiniBand's), so that neighbours which
all shift by the same distance take different spines. Leiserson 1985, doi:10.1109/TC.1985.6312192.
"""

from __future__ import annotations

from collections.abc import Iterator

from parallel_core.hardware.links import Wire
from parallel_core.hardware.topology import Link, Pace, Topology


class FatTree(Topology):
    """Two levels of switches; vertices are hosts, then leaves, then spines.

    `leaf` hosts hang on a switch (it divides `ranks`); leaf / `oversubscription` cables go up.
    """

    kind = "fat-tree"

    def __init__(self, ranks: int, wire: Wire, *, leaf: int, oversubscription: int = 1) -> None:
        self.ranks, self.wire, self.leaf = ranks, wire, leaf
        self.oversubscription = oversubscription
        self.leaves = ranks // leaf
        self.spines = leaf // oversubscription if self.leaves > 1 else 0

    @property
    def text(self) -> str:
        """`fat-tree:64,leaf=8,oversubscription=2`."""
        return f"fat-tree:{self.ranks},leaf={self.leaf},oversubscription={self.oversubscription}"

    @property
    def vertices(self) -> int:
        """Hosts, leaves and spines."""
        return self.ranks + self.leaves + self.spines

    def leaf_of(self, rank: int) -> int:
        """The vertex of the switch that the host hangs on."""
        return self.ranks + rank // self.leaf

    def name(self, vertex: int) -> str:
        """`5`, `leaf 0`, `spine 3`."""
        if vertex < self.ranks:
            return str(vertex)
        place = vertex - self.ranks
        return f"leaf {place}" if place < self.leaves else f"spine {place - self.leaves}"

    def links(self) -> Iterator[Link]:
        """Host and leaf, then leaf and spine, both ways."""
        for rank in range(self.ranks):
            yield from ((rank, self.leaf_of(rank)), (self.leaf_of(rank), rank))
        for leaf in range(self.ranks, self.ranks + self.leaves):
            for spine in range(self.ranks + self.leaves, self.vertices):
                yield from ((leaf, spine), (spine, leaf))

    def route(self, source: int, target: int) -> tuple[Link, ...]:
        """Up to the lowest common switch and down again: 2 links, or 4 through a spine."""
        if source == target:
            return ()
        up, down = self.leaf_of(source), self.leaf_of(target)
        if up == down:
            return ((source, up), (up, target))
        spine = self.ranks + self.leaves + target % self.spines
        return ((source, up), (up, spine), (spine, down), (down, target))

    def pace(self, link: Link) -> Pace:
        """A host's cable has half of the wire's latency; one between switches adds a hop."""
        between = min(link) >= self.ranks
        return Pace(self.wire.bandwidth, self.wire.hop if between else self.wire.latency / 2)

    @property
    def bisection(self) -> int:
        """Half of the leaves' cables up; an odd leaf is cut through the middle."""
        return self.leaves // 2 * self.spines + self.leaves % 2 * (self.leaf // 2)

    def loads(self) -> dict[Link, int]:
        """A host's cable carries all of its own; one upward `oversubscription` hosts' messages."""
        away = self.ranks - self.leaf
        loads = {(0, self.ranks): self.ranks - 1}
        if self.spines:
            loads[self.ranks, self.ranks + self.leaves] = self.oversubscription * away
        return loads

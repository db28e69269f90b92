"""Two levels: fast nodes in a slower cluster, as GPU servers are.

    two-level:2x4        core (the cluster's fabric)
                        /  ...  \\
                  n n n n      n n n n         nics, one a host by default
                  0 1 2 3      4 5 6 7         hosts, also on their node's switch
                  [ switch ]   [ switch ]

Inside a node every host reaches every other over the node's switch at full speed; between nodes a
message leaves by its host's network card. `nics=1` makes a whole node share one card. The core
blocks nobody: its own tree is what fat_tree.py is about.
"""

from __future__ import annotations

from collections.abc import Iterator

from parallel_core.hardware.links import Wire
from parallel_core.hardware.topology import Link, Pace, Topology


class TwoLevel(Topology):
    """`nodes` of `per_node` hosts; vertices are hosts, node switches, nics, and the core last.

    `wire` is the one inside a node, `across` the one between nodes; `nics` divides `per_node`.
    """

    kind = "two-level"

    def __init__(
        self, nodes: int, per_node: int, wire: Wire, *, across: Wire, nics: int | None = None
    ) -> None:
        self.nodes, self.per_node, self.wire, self.across = nodes, per_node, wire, across
        self.nics = per_node if nics is None else nics
        self.ranks = nodes * per_node

    @property
    def text(self) -> str:
        """`two-level:4x8,nics=8`."""
        return f"two-level:{self.nodes}x{self.per_node},nics={self.nics}"

    @property
    def wires(self) -> tuple[Wire, ...]:
        """Inside and across."""
        return (self.wire, self.across) if self.nodes > 1 else (self.wire,)

    @property
    def vertices(self) -> int:
        """Hosts, a switch a node and, if there are several, network cards and the core."""
        return self.ranks + self.nodes + (self.nodes * self.nics + 1 if self.nodes > 1 else 0)

    @property
    def core(self) -> int:
        """The vertex that joins the nodes."""
        return self.vertices - 1

    def switch_of(self, rank: int) -> int:
        """The vertex of the host's node switch."""
        return self.ranks + rank // self.per_node

    def nic_of(self, rank: int) -> int:
        """The vertex of the host's network card; neighbours share one."""
        node, place = divmod(rank, self.per_node)
        return self.ranks + self.nodes + node * self.nics + place * self.nics // self.per_node

    def name(self, vertex: int) -> str:
        """`5`, `switch 0`, `nic 3`, `core`."""
        if vertex < self.ranks:
            return str(vertex)
        place = vertex - self.ranks
        if place < self.nodes:
            return f"switch {place}"
        return "core" if vertex == self.core else f"nic {place - self.nodes}"

    def links(self) -> Iterator[Link]:
        """Host and switch, host and card, card and core, both ways."""
        for rank in range(self.ranks):
            ends = [self.switch_of(rank)] + ([self.nic_of(rank)] if self.nodes > 1 else [])
            for end in ends:
                yield from ((rank, end), (end, rank))
        if self.nodes > 1:
            for nic in range(self.ranks + self.nodes, self.core):
                yield from ((nic, self.core), (self.core, nic))

    def route(self, source: int, target: int) -> tuple[Link, ...]:
        """Over the node's switch, or out by one card and in by another."""
        if source == target:
            return ()
        switch = self.switch_of(source)
        if switch == self.switch_of(target):
            return ((source, switch), (switch, target))
        out, into = self.nic_of(source), self.nic_of(target)
        return ((source, out), (out, self.core), (self.core, into), (into, target))

    def pace(self, link: Link) -> Pace:
        """The switch's two cables share the wire's latency, the core's two that of the other."""
        low, high = min(link), max(link)
        if low < self.ranks and high < self.ranks + self.nodes:
            return Pace(self.wire.bandwidth, self.wire.latency / 2)
        on_board = low < self.ranks  # host to card: as fast as the card, its latency is counted
        return Pace(self.across.bandwidth, 0.0 if on_board else self.across.latency / 2)

    @property
    def bisection(self) -> int:
        """Cables out of half of the nodes (rounded down); out of half the hosts of a single one."""
        return self.nodes // 2 * self.nics if self.nodes > 1 else self.per_node // 2

    @property
    def bisection_bandwidth(self) -> float:
        """Bytes/s through that cut, one direction."""
        narrow = self.across if self.nodes > 1 else self.wire
        return self.bisection * narrow.bandwidth

    def loads(self) -> dict[Link, int]:
        """A host's switch cable serves its node, its card all hosts that share it."""
        loads = {(0, self.switch_of(0)): self.per_node - 1}
        away = self.ranks - self.per_node
        if away:
            loads[0, self.nic_of(0)] = away
            loads[self.nic_of(0), self.core] = self.per_node // self.nics * away
        return loads

"""Who takes part in a collective, and the sentence for those who cannot."""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.mesh import Mesh

AXIS = "r"
"""The one mesh axis of a collective's program."""


class CollectiveError(ValueError):
    """A collective that cannot be built or does not keep its promise; says what to change."""


@dataclass(frozen=True)
class Group:
    """What a builder needs: the ranks, and where they play a part, root, node and segments.

    `root` is the rank that broadcasts, scatters, gathers or reduces; `node` how many neighbouring
    ranks share a node (hierarchical); `segments` into how many pieces a pipelined algorithm cuts
    what it sends (double tree). An algorithm ignores what it has no use for.

    >>> Group(6).levels, Group(6).power_below
    (3, 4)
    """

    n: int
    root: int = 0
    node: int = 2
    segments: int = 1

    def __post_init__(self) -> None:
        if self.n < 2:
            raise CollectiveError(f"n={self.n} ranks have nobody to talk to; 2 is the fewest")
        if not 0 <= self.root < self.n:
            raise CollectiveError(f"root={self.root} is no rank; choose one of 0..{self.n - 1}")
        for name, value in (("node", self.node), ("segments", self.segments)):
            if value < 1:
                raise CollectiveError(f"{name}={value} must be at least 1")

    @property
    def mesh(self) -> Mesh:
        """n ranks on one axis."""
        return Mesh(((AXIS, self.n),))

    @property
    def ranks(self) -> range:
        """0 .. n-1."""
        return range(self.n)

    @property
    def levels(self) -> int:
        """log2 n, rounded up: how often a half of the ranks can be reached from the rest."""
        return (self.n - 1).bit_length()

    @property
    def power_below(self) -> int:
        """The greatest power of two that is at most n."""
        return 1 << (self.n.bit_length() - 1)

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return self.n // self.node

    def from_root(self, v: int) -> int:
        """The rank v places after the root."""
        return (self.root + v) % self.n

    def needs_power_of_two(self, algorithm: str) -> None:
        """CollectiveError unless n is a power of two."""
        below = self.power_below
        if self.n != below:
            raise CollectiveError(
                f"{algorithm} pairs ranks by the bits of their number, so n must be a power of"
                f" two; n={self.n} is none, {below} and {2 * below} are the nearest"
            )

    def needs_whole_nodes(self, algorithm: str) -> None:
        """CollectiveError unless n ranks make two or more full nodes of two or more ranks."""
        if self.node < 2:
            raise CollectiveError(
                f"{algorithm} needs at least 2 ranks a node, not node={self.node}; 2 is the nearest"
            )
        if self.n % self.node or self.nodes < 2:
            near = sorted({max(self.nodes, 2) * self.node, (self.nodes + 1) * self.node} - {self.n})
            raise CollectiveError(
                f"{algorithm} needs two or more full nodes, and n={self.n} ranks make none of"
                f" node={self.node}; n={' or '.join(map(str, near))} would"
            )

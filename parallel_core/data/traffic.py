"""How many bytes data parallelism moves, in closed form; the programs say the same, tested.

Ψ weights, n ranks, m microbatches; a rank sends (n-1)/n of what a ring passes round.

    stage   what a step passes round                     elements
    0, 1    gradients summed: scattered, then gathered   2Ψ
    2       scattered each microbatch, gathered once     (m+1)Ψ
    3       gathered twice and scattered, each           3mΨ    (2mΨ with keep_gathered)

HSDP cuts the n ranks into groups of `shard` that do stage 3 inside, and sums the shards over the
groups once a step. Rajbhandari et al. 2019, arXiv:1910.02054, section 7; Zhao et al. 2023,
PyTorch FSDP, arXiv:2304.11277, 3.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass


def times_around(zero: int, *, microbatches: int = 1, keep_gathered: bool = False) -> int:
    """How many times Ψ elements are passed round in a step of this stage.

    >>> [times_around(zero, microbatches=4) for zero in range(4)]
    [2, 2, 5, 12]
    """
    if zero not in range(4):
        raise ValueError(f"zero={zero} is no stage of ZeRO; choose 0, 1, 2 or 3")
    gathers = 1 if keep_gathered else 2
    return (2, 2, microbatches + 1, (gathers + 1) * microbatches)[zero]


def ring_bytes(passed_round: float, n: int) -> float:
    """Bytes a rank sends when a ring of n passes so many bytes round: (n-1)/n of them."""
    return passed_round * (n - 1) / n


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Ψ weights of `width` bytes on `ranks` ranks, sharded in groups of `shard` neighbours.

    A group of all ranks is FSDP, smaller ones are HSDP. Ranks are numbered node by node, `node`
    to each, and a group's are neighbours. Bytes are those of one step. ValueError where groups or
    nodes do not fit.

    >>> flat = Sharding(params=1e9, ranks=32, shard=32, node=8)
    >>> hybrid = Sharding(params=1e9, ranks=32, shard=8, node=8)
    >>> round(flat.inside / 1e9, 2), hybrid.inside / 1e9, hybrid.across / 1e9
    (5.81, 5.25, 0.375)
    """

    params: float
    ranks: int
    shard: int
    node: int = 8
    width: int = 2
    zero: int = 3
    microbatches: int = 1
    keep_gathered: bool = False

    def __post_init__(self) -> None:
        if self.ranks % self.shard:
            raise ValueError(f"shard={self.shard} must divide ranks={self.ranks}")
        if self.shard % self.node and self.node % self.shard:
            raise ValueError(
                f"shard={self.shard} and node={self.node}: one must be a multiple of the other,"
                " or groups would straddle nodes unevenly"
            )

    @property
    def inside(self) -> float:
        """Bytes a rank sends within its group of shards."""
        times = times_around(
            self.zero, microbatches=self.microbatches, keep_gathered=self.keep_gathered
        )
        return ring_bytes(times * self.params * self.width, self.shard)

    @property
    def across(self) -> float:
        """Bytes a rank sends to the other groups: the all-reduce of its shard of the gradient."""
        return ring_bytes(2 * self.params / self.shard * self.width, self.ranks // self.shard)

    @property
    def leaving_node(self) -> float:
        """Bytes that leave one node, all its ranks together, where rings follow rank order.

        A ring through several nodes leaves each by one rank. Those across the groups are one ring
        for every shard of a node.
        """
        if self.ranks <= self.node:
            return 0.0
        ring = self.inside if self.shard > self.node else 0.0
        return ring + min(self.shard, self.node) * self.across

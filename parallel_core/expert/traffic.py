"""What dispatch and combine send: copies of a token, inside its node and across nodes.

E experts evenly on R ranks, nodes of G ranks, k choices a token, at most `reach` nodes.

    flat           a copy for every choice             k
    once-a-rank    a copy for every different rank     V = R' (1 - C(E' - E/R, k) / C(E', k))
    hierarchical   a copy for every different node     W = M  (1 - C(E' - E/N, k) / C(E', k))
                   over the network; from the rank
                   it comes to, which stands where
                   its sender stands in its node,
                   on to the ranks that want it        V inside nodes
    all-gather     everybody gets everything           R - 1

M is `reach` (or all N nodes), R' = M G and E' = M E/N the ranks and experts within it. V and W are
exact where the k experts of a token are drawn from those in reach with equal chances: what is left
without an expert of a rank is one hypergeometric term. One of the R ranks is the token's own and
costs nothing: of V visits (G-1)/R stay inside its node, (R-G)/R leave it. A combine brings back
what a dispatch sent, since ranks (and in a hierarchy nodes) add up before they send.

Once a rank, then once a node: DeepSeek-AI 2024, arXiv:2412.19437, section 3.2.2, and
github.com/deepseek-ai/DeepEP. Hierarchical all-to-all: Rajbhandari et al. 2022, arXiv:2201.05596.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import comb

import numpy as np

from parallel_core.expert.placement import IntArray, Placement, destinations, reached

SCALE_BLOCK, SCALE_BYTES = 128, 4
"""FP8 travels with one float32 scale for 128 elements."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How many experts lie on how many ranks, in nodes of how many, and how many a token chooses.

    `reach` limits the nodes a token goes to; None does not. ValueError where they do not divide or
    fewer experts are in reach than a token chooses.
    """

    experts: int
    top_k: int
    ranks: int
    node: int
    reach: int | None = None

    def __post_init__(self) -> None:
        if self.ranks % self.node or self.experts % self.ranks:
            raise ValueError(
                f"nodes of {self.node} must divide the {self.ranks} ranks, and those the"
                f" {self.experts} experts"
            )
        if not 1 <= self.reached_nodes <= self.nodes:
            raise ValueError(f"reach={self.reach} must be between 1 and {self.nodes} nodes")
        if not 1 <= self.top_k <= self.in_reach:
            raise ValueError(
                f"top_k={self.top_k} must be between 1 and the {self.in_reach} experts in reach"
            )

    @property
    def nodes(self) -> int:
        """Nodes there are."""
        return self.ranks // self.node

    @property
    def reached_nodes(self) -> int:
        """Nodes whose experts a token chooses from."""
        return self.nodes if self.reach is None else self.reach

    @property
    def in_reach(self) -> int:
        """Experts that a token chooses from."""
        return self.experts // self.nodes * self.reached_nodes

    def visited(self, parts: int) -> Fraction:
        """Different parts a token visits on average, of `parts` equal ones that are in reach."""
        rest = self.in_reach - self.in_reach // parts
        return parts * (1 - Fraction(comb(rest, self.top_k), comb(self.in_reach, self.top_k)))

    @property
    def ranks_visited(self) -> Fraction:
        """Different ranks a token visits on average, its own counted if it does.

        >>> float(Spread(experts=16, top_k=2, ranks=4, node=4).ranks_visited)
        1.8
        """
        return self.visited(self.reached_nodes * self.node)

    @property
    def nodes_visited(self) -> Fraction:
        """Different nodes a token visits on average, its own counted if it does."""
        return self.visited(self.reached_nodes)


@dataclass(frozen=True)
class Copies:
    """Copies of a token, on average: sent inside a node, and from node to node."""

    inside: Fraction
    across: Fraction

    @property
    def all(self) -> Fraction:
        """Copies that leave a rank."""
        return self.inside + self.across


def flat(spread: Spread) -> Copies:
    """A copy for every choice that is not at home: k (R-1)/R together."""
    return _from_home(spread, Fraction(spread.top_k))


def once_a_rank(spread: Spread) -> Copies:
    """A copy for every rank, whichever of its experts want it."""
    return _from_home(spread, spread.ranks_visited)


def hierarchical(spread: Spread) -> Copies:
    """A copy for every other node, and there for every rank but the one where it arrives."""
    across = spread.nodes_visited * (1 - Fraction(1, spread.nodes))
    return Copies(spread.ranks_visited * (1 - Fraction(1, spread.node)), across)


def all_gather(spread: Spread) -> Copies:
    """A copy for every rank, wanted or not: once to each other node, and inside it to the rest."""
    return Copies(Fraction(spread.ranks - spread.nodes), Fraction(spread.nodes - 1))


def _from_home(spread: Spread, visits: Fraction) -> Copies:
    inside, across = spread.node - 1, spread.ranks - spread.node
    return Copies(visits * inside / spread.ranks, visits * across / spread.ranks)


DISPATCHES: dict[str, Callable[[Spread], Copies]] = {
    "flat": flat,
    "once-a-rank": once_a_rank,
    "hierarchical": hierarchical,
    "all-gather": all_gather,
}
"""Every way to bring tokens to experts."""


@dataclass(frozen=True)
class Width:
    """Bytes of one copy of a token on its way to an expert, and of a result on its way back."""

    dispatch: int
    combine: int

    @classmethod
    def plain(cls, hidden: int, element: int = 2) -> Width:
        """The same both ways, bf16 unless told otherwise."""
        return cls(hidden * element, hidden * element)

    @classmethod
    def fp8(cls, hidden: int, header: int = 0) -> Width:
        """DeepEP's: FP8 with its scales (and a header) there, bf16 back.

        >>> Width.fp8(7168)
        Width(dispatch=7392, combine=14336)
        """
        scales = -(-hidden // SCALE_BLOCK) * SCALE_BYTES
        return cls(hidden + scales + header, 2 * hidden)


@dataclass(frozen=True)
class Volume:
    """Bytes that one rank sends in one exchange, on average."""

    inside: float
    across: float


def dispatch_bytes(spread: Spread, how: str, tokens: int, width: Width) -> Volume:
    """What a rank with `tokens` tokens sends to experts. KeyError for a way that is not there."""
    return _volume(DISPATCHES[how](spread), tokens * width.dispatch)


def combine_bytes(spread: Spread, how: str, tokens: int, width: Width) -> Volume:
    """What comes back of it; over all ranks as much is sent as comes."""
    return _volume(DISPATCHES[how](spread), tokens * width.combine)


def _volume(copies: Copies, size: int) -> Volume:
    return Volume(float(copies.inside * size), float(copies.across * size))


def counted(
    placement: Placement, routing: IntArray, home: IntArray, node: int
) -> dict[str, Copies]:
    """The same copies of tokens whose experts are known, counted one by one.

    experts [tokens, k], the rank each token is on [tokens]; `node` ranks make a node.
    """
    tokens, ranks = len(routing), placement.ranks
    at = np.asarray(home, dtype=np.int64)[:, None]
    everyone = np.arange(ranks)[None, :]
    choices = np.zeros((tokens, ranks), dtype=np.int64)
    np.add.at(choices, (np.arange(tokens)[:, None], destinations(placement, routing)), 1)
    visits = reached(placement, routing)
    near, mine = everyone // node == at // node, everyone == at
    nodes = visits.reshape(tokens, ranks // node, node).any(-1)
    elsewhere = np.arange(ranks // node)[None, :] != at // node
    landing = everyone % node == at % node  # where a copy arrives in a node, or is at home
    found = {
        "flat": ((choices * (near & ~mine)).sum(), (choices * ~near).sum()),
        "once-a-rank": ((visits & near & ~mine).sum(), (visits & ~near).sum()),
        "hierarchical": ((visits & ~landing).sum(), (nodes & elsewhere).sum()),
        "all-gather": (tokens * (ranks - ranks // node), tokens * (ranks // node - 1)),
    }
    return {
        how: Copies(Fraction(int(inside), tokens), Fraction(int(across), tokens))
        for how, (inside, across) in found.items()
    }

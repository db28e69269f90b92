"""Experts that are chosen together on one rank: a token's k experts then lie on fewer of them.

    tokens choose {0,2} or {1,3}      static     r0: 0 1   r1: 2 3      2 ranks a token
                                      grouped    r0: 0 2   r1: 1 3      1

What counts is how often two experts serve the same token, over all pairs that share a rank. For
k = 2 that *is* the number of ranks visited: 2 less the share of tokens whose pair is together; for
larger k it is a stand-in for it, and `placement.ranks_visited` tells the truth. To find the best
grouping is a hard problem (balanced graph partition); here groups grow greedily, and then experts
are exchanged in pairs while that gains, from there and from static, so that static is never better:
Kernighan and Lin 1970, doi:10.1002/j.1538-7305.1970.tb01770.x.

Grouping by affinity for expert parallelism: Yao et al. 2024, ExFlow, arXiv:2401.08383 (between
layers); Li et al. 2025, Speculative MoE, arXiv:2503.04398 (experts pre-grouped by the tokens they
share); Han et al. 2025, GRACE-MoE, arXiv:2509.25041 (groups first, then copies of the hot ones).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parallel_core.expert.placement import IntArray, Placement, static

Pairs = NDArray[np.int64]
"""[experts, experts], symmetric, zero on the diagonal: tokens that chose both."""


def together(routing: IntArray, experts: int) -> Pairs:
    """How many tokens chose both of two experts: routing [..., k] -> [experts, experts].

    >>> together(np.array([[0, 2], [1, 3], [0, 2]]), 4)[0].tolist()
    [0, 0, 2, 0]
    """
    chosen = np.asarray(routing).reshape(-1, np.asarray(routing).shape[-1])
    ones = np.zeros((len(chosen), experts), dtype=np.int64)
    np.put_along_axis(ones, chosen, 1, axis=1)
    pairs = ones.T @ ones
    np.fill_diagonal(pairs, 0)
    return pairs


def within(placement: Placement, pairs: Pairs) -> int:
    """Pairs of choices that share a rank, where every expert has one copy."""
    return sum(int(pairs[np.ix_(row, row)].sum()) // 2 for row in map(list, placement.slots))


def grouped(pairs: Pairs, ranks: int) -> Placement:
    """As many experts on every rank, and as many pairs together as exchanges can find.

    ValueError where the experts do not divide over the ranks or `pairs` is no square.
    """
    if pairs.ndim != 2 or pairs.shape[0] != pairs.shape[1]:
        raise ValueError(f"pairs of shape {pairs.shape}: experts by experts are needed")
    plain = static(len(pairs), ranks)
    group = [0] * len(pairs)
    for rank, experts in enumerate(plain.slots):
        for expert in experts:
            group[expert] = rank
    both = pairs + pairs.T  # whichever half was given; the factor does not matter
    np.fill_diagonal(both, 0)
    starts = (np.array(group), _grown(both, ranks))
    found = [_placement(_exchanged(both, start, ranks), ranks) for start in starts]
    return max(found, key=lambda placement: within(placement, both))


def _grown(pairs: Pairs, ranks: int) -> IntArray:
    """Rank by rank: the busiest expert that is left, then whoever goes with those there most."""
    left = np.ones(len(pairs), dtype=np.bool_)
    group = np.zeros(len(pairs), dtype=np.int64)
    for rank in range(ranks):
        tie = np.where(left, pairs[:, left].sum(1), -1)
        with_us = np.zeros(len(pairs), dtype=np.int64)
        for _ in range(len(pairs) // ranks):
            expert = int(np.argmax(tie))
            group[expert], left[expert] = rank, False
            with_us += pairs[expert]
            tie = np.where(left, with_us, -1)
    return group


def _exchanged(pairs: Pairs, group: IntArray, ranks: int) -> IntArray:
    """Two experts of different ranks change places, the most gainful first, until none gains."""
    group = group.copy()
    everyone = np.arange(len(pairs))
    while True:
        ties = np.stack([pairs[:, group == r].sum(1) for r in range(ranks)], axis=1)  # [E, ranks]
        at_home = ties[everyone, group]
        gain = ties[:, group] - at_home[:, None]  # [i, j]: i moves to where j is
        gain = gain + gain.T - 2 * pairs
        gain[group[:, None] == group[None, :]] = 0
        one, other = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[one, other] <= 0:
            return group
        group[one], group[other] = group[other], group[one]


def _placement(group: IntArray, ranks: int) -> Placement:
    rows = (np.flatnonzero(group == rank) for rank in range(ranks))
    return Placement(tuple(tuple(int(e) for e in row) for row in rows))

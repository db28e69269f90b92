"""Which rank holds which expert, and what that makes of its load.

    16 experts on 4 ranks      r0: 0 1 2 3    r1: 4 5 6 7    r2: 8 .. 11    r3: 12 .. 15

Nouns. A rank has *slots*, each with the weights of one expert. An expert in several slots has
*copies* (never two on one rank, where a second would be of no use), and its tokens are dealt out to
them evenly: token t goes to copy t mod c. A *load* is what an expert is given, usually tokens.

Where there is more than one way: static (here) is what training begins with; replication.py copies
the hot experts (less load for the fullest rank); grouping.py moves experts that are chosen together
onto one rank (fewer ranks for a token to visit). The two aims pull apart: experts that are chosen
together are hot together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

Loads = Sequence[float]
"""What each expert (or each rank) is given: tokens, or anything in proportion to them."""


@dataclass(frozen=True)
class Placement:
    """The experts of each rank: `slots[rank]`, in the order they lie there.

    ValueError if a rank has an expert twice, or one of 0 .. E-1 lives nowhere.

    >>> Placement(((0, 1), (2, 0))).holders
    ((0, 1), (0,), (1,))
    """

    slots: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for rank, experts in enumerate(self.slots):
            if len(set(experts)) < len(experts):
                raise ValueError(
                    f"rank {rank} has an expert twice: {list(experts)}; one copy does all its work"
                )
        there = {expert for experts in self.slots for expert in experts}
        missing = set(range(len(there))) - there
        if missing:
            raise ValueError(f"no rank holds expert {min(missing)}; give it a slot")

    @property
    def ranks(self) -> int:
        """Ranks that hold experts."""
        return len(self.slots)

    @property
    def experts(self) -> int:
        """Different experts there are."""
        return len({expert for experts in self.slots for expert in experts})

    @property
    def holders(self) -> tuple[tuple[int, ...], ...]:
        """The ranks that hold each expert, ascending: its copies in order."""
        found: list[list[int]] = [[] for _ in range(self.experts)]
        for rank, experts in enumerate(self.slots):
            for expert in experts:
                found[expert].append(rank)
        return tuple(tuple(ranks) for ranks in found)

    @property
    def copies(self) -> tuple[int, ...]:
        """How many ranks hold each expert."""
        return tuple(len(ranks) for ranks in self.holders)


def static(experts: int, ranks: int) -> Placement:
    """Runs of neighbouring experts, as many on every rank. ValueError where they do not divide.

    Lepikhin et al. 2020, GShard, arXiv:2006.16668.

    >>> static(16, 4).holders[5]
    (1,)
    """
    if experts < 1 or ranks < 1 or experts % ranks:
        raise ValueError(f"experts={experts} must be a multiple of ep={ranks}")
    each = experts // ranks
    return Placement(tuple(tuple(range(r * each, (r + 1) * each)) for r in range(ranks)))


def rank_loads(placement: Placement, loads: Loads) -> tuple[float, ...]:
    """What every rank is given; copies of an expert share its load evenly.

    >>> rank_loads(Placement(((0, 1), (2, 0))), [40, 10, 30])
    (30.0, 50.0)
    """
    if len(loads) != placement.experts:
        raise ValueError(f"{len(loads)} loads for {placement.experts} experts")
    copies = placement.copies
    return tuple(
        float(sum(loads[expert] / copies[expert] for expert in experts))
        for experts in placement.slots
    )


def imbalance(loads: Loads) -> float:
    """The fullest over the mean, 1 where all is even: the step waits for the fullest.

    >>> imbalance([40, 10, 10, 10, 10, 20, 20, 8])
    2.5
    """
    whole = sum(loads)
    return max(loads) * len(loads) / whole if whole else 1.0


def loads_of(routing: IntArray, experts: int) -> IntArray:
    """How many choices each expert got: routing [..., k] -> [experts]."""
    return np.bincount(np.asarray(routing).reshape(-1), minlength=experts).astype(np.int64)


def destinations(placement: Placement, routing: IntArray) -> IntArray:
    """The rank each choice goes to: experts [tokens, k] -> ranks [tokens, k]."""
    chosen = np.asarray(routing, dtype=np.int64)
    holders, copies = placement.holders, np.array(placement.copies, dtype=np.int64)
    table = np.zeros((placement.experts, int(copies.max())), dtype=np.int64)
    for expert, ranks in enumerate(holders):
        table[expert, : len(ranks)] = ranks
    token = np.arange(len(chosen), dtype=np.int64)[:, None]
    return np.asarray(table[chosen, token % copies[chosen]], dtype=np.int64)


def reached(placement: Placement, routing: IntArray) -> NDArray[np.bool_]:
    """Which ranks each token goes to: experts [tokens, k] -> bool [tokens, ranks]."""
    ranks = destinations(placement, routing)
    found = np.zeros((len(ranks), placement.ranks), dtype=np.bool_)
    np.put_along_axis(found, ranks, True, axis=1)
    return found


def ranks_visited(placement: Placement, routing: IntArray) -> float:
    """Different ranks a token goes to, on average: the copies of it that a dispatch without
    duplicates makes, its own rank's counted.

    >>> ranks_visited(static(4, 2), np.array([[0, 1], [0, 2]]))
    1.5
    """
    found = reached(placement, routing)
    return float(found.sum() / len(found))

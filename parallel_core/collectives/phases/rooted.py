"""What it costs when one rank deals out or takes in: all by itself, or down a binomial tree."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from parallel_core.collectives.group import Group
from parallel_core.collectives.phases import Phase, one_size


def _from_root(g: Group, r: int) -> int:
    return (r - g.root) % g.n


# Root-based: one rank's link carries it all.

DEAL = Phase(  # the whole buffer to each
    sent=lambda g, b, r: (g.n - 1) * sum(b) if r == g.root else 0,
    received=lambda g, b, r: 0 if r == g.root else sum(b),
    messages=lambda g: g.n - 1,
    steps=lambda g: 1,
    path=lambda g: one_size(g.n - 1, 1),
)
DEAL_SHARDS = Phase(  # its chunk to each
    sent=lambda g, b, r: sum(b) - b[r] if r == g.root else 0,
    received=lambda g, b, r: 0 if r == g.root else b[r],
    messages=lambda g: g.n - 1,
    steps=lambda g: 1,
    path=lambda g: one_size(g.n - 1, Fraction(1, g.n)),
)
DEAL_REST = (
    Phase(  # to each what is not its chunk; of two ranks, while the root takes in the other one
        sent=lambda g, b, r: (g.n - 2) * sum(b) + b[r] if r == g.root else 0,
        received=lambda g, b, r: 0 if r == g.root else sum(b) - b[r],
        messages=lambda g: g.n - 1,
        steps=lambda g: int(g.n > 2),
        path=lambda g: one_size((g.n - 1) * (g.n > 2), Fraction(g.n - 1, g.n)),
    )
)

# Binomial tree.


def _children(g: Group, r: int) -> int:
    """As many as the bits below the lowest of v, but for those that lead past the last rank."""
    v = _from_root(g, r)
    room = (g.n - 1 - v).bit_length()
    return min((v & -v).bit_length() - 1, room) if v else room


def _behind(g: Group, b: Sequence[int], r: int) -> int:
    """Bytes of the chunks of r and of all ranks that hear through it."""
    v = _from_root(g, r)
    last = min(v + (v & -v), g.n) if v else g.n
    return sum(b[g.from_root(i)] for i in range(v, last))


TREE_DOWN = Phase(
    sent=lambda g, b, r: _children(g, r) * sum(b),
    received=lambda g, b, r: 0 if r == g.root else sum(b),
    messages=lambda g: g.n - 1,
    steps=lambda g: g.levels,
    path=lambda g: one_size(g.levels, 1),
)
TREE_DOWN_SHARDS = Phase(
    sent=lambda g, b, r: _behind(g, b, r) - b[r],
    received=lambda g, b, r: 0 if r == g.root else _behind(g, b, r),
    messages=lambda g: g.n - 1,
    steps=lambda g: g.levels,
    path=lambda g: tuple((1, Fraction(min(1 << k, g.n - (1 << k)), g.n)) for k in range(g.levels)),
)

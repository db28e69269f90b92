"""What it costs to talk to everybody: at once, in pairs, or in log2 n steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from parallel_core.collectives.group import Group
from parallel_core.collectives.phases import Bytes, Phase, one_size

DIRECT_WHOLE = Phase(
    sent=lambda g, b, r: (g.n - 1) * sum(b),
    received=lambda g, b, r: (g.n - 1) * sum(b),
    messages=lambda g: g.n * (g.n - 1),
    steps=lambda g: 1,
    path=lambda g: one_size(g.n - 1, 1),
)
DIRECT_SUM = Phase(  # to each its chunk
    sent=lambda g, b, r: sum(b) - b[r],
    received=lambda g, b, r: (g.n - 1) * b[r],
    messages=lambda g: g.n * (g.n - 1),
    steps=lambda g: 1,
    path=lambda g: one_size(g.n - 1, Fraction(1, g.n)),
)
DIRECT_PASS = DIRECT_SUM.turned
PAIRWISE = replace(DIRECT_SUM, steps=lambda g: g.n - 1)


def _ways(g: Group, k: int) -> list[int]:
    """The distances that have bit k."""
    return [j for j in range(g.n) if j >> k & 1]


def _on_the_way(shift: int) -> Bytes:
    """A block that has gone the low k bits of j lies j's other bits before its destination."""

    def forwarded(g: Group, b: Sequence[int], r: int) -> int:
        return sum(
            b[(r + (j >> k << k) - (shift << k)) % g.n]
            for k in range(g.levels)
            for j in _ways(g, k)
        )

    return forwarded


def _known(g: Group) -> list[tuple[int, int]]:
    """(distance, how many values travel) in each step of spreading by doubling."""
    return [(1 << k, min(1 << k, g.n - (1 << k))) for k in range(g.levels)]


BRUCK = Phase(
    sent=_on_the_way(0),
    received=_on_the_way(1),
    messages=lambda g: g.n * g.levels,
    steps=lambda g: g.levels,
    path=lambda g: tuple((1, Fraction(len(_ways(g, k)), g.n)) for k in range(g.levels)),
)
SPREAD = Phase(
    sent=lambda g, b, r: sum(b[(r - i) % g.n] for _, count in _known(g) for i in range(count)),
    received=lambda g, b, r: sum(b) - b[r],
    messages=lambda g: g.n * g.levels,
    steps=lambda g: g.levels,
    path=lambda g: tuple((1, Fraction(count, g.n)) for _, count in _known(g)),
)
WORD = Phase(  # spreading without bytes
    sent=lambda g, b, r: 0,
    received=lambda g, b, r: 0,
    messages=SPREAD.messages,
    steps=SPREAD.steps,
    path=lambda g: one_size(g.levels, 0),
)
SHIFT = Phase(
    sent=lambda g, b, r: sum(b),
    received=lambda g, b, r: sum(b),
    messages=lambda g: g.n,
    steps=lambda g: 1,
    path=lambda g: one_size(1, 1),
)

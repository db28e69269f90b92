"""What a round of a ring costs: over all ranks, inside a node, or across nodes.

A `View` says where on its ring a rank stands, and the bytes of the blocks that go round there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from parallel_core.collectives.group import Group
from parallel_core.collectives.phases import Bytes, Phase, one_size

View = Callable[[Group, Sequence[int], int], tuple[int, Sequence[int]]]


def _ring(view: View, length: Callable[[Group], int], share: Callable[[Group], Fraction]) -> Phase:
    """The summing round of a ring: a rank sends every block but its own."""

    def but(offset: int) -> Bytes:
        def every_block_but(g: Group, b: Sequence[int], r: int) -> int:
            place, blocks = view(g, b, r)
            return sum(blocks) - blocks[(place + offset) % len(blocks)]

        return every_block_but

    return Phase(
        sent=but(0),
        received=but(-1),
        messages=lambda g: g.n * (length(g) - 1),
        steps=lambda g: length(g) - 1,
        path=lambda g: one_size(length(g) - 1, share(g)),
    )


def _passing(view: View, summing: Phase) -> Phase:
    """The gathering round: a rank sends every block but its right neighbour's."""

    def sent(g: Group, b: Sequence[int], r: int) -> int:
        place, blocks = view(g, b, r)
        return sum(blocks) - blocks[(place + 1) % len(blocks)]

    return replace(summing, sent=sent, received=summing.sent)


def _flat(g: Group, b: Sequence[int], r: int) -> tuple[int, Sequence[int]]:
    return r, b


def _inside(g: Group, b: Sequence[int], r: int) -> tuple[int, Sequence[int]]:
    k = g.nodes
    return r % g.node, [sum(b[j * k : (j + 1) * k]) for j in range(g.node)]


def _across(g: Group, b: Sequence[int], r: int) -> tuple[int, Sequence[int]]:
    node, local = divmod(r, g.node)
    return node, b[local * g.nodes : (local + 1) * g.nodes]


RING_SUM = _ring(_flat, lambda g: g.n, lambda g: Fraction(1, g.n))
RING_PASS = _passing(_flat, RING_SUM)
NODE_SUM = _ring(_inside, lambda g: g.node, lambda g: Fraction(1, g.node))
NODE_PASS = _passing(_inside, NODE_SUM)
ACROSS_SUM = _ring(_across, lambda g: g.nodes, lambda g: Fraction(1, g.n))
ACROSS_PASS = _passing(_across, ACROSS_SUM)

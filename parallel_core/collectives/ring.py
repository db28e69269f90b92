"""Ring: every rank sends to the right and receives from the left, one chunk a step, all at once.

Each link carries every chunk but one, so the bytes a rank sends stop growing with n; the n-1 steps
do not. Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002.
"""

from __future__ import annotations

from collections.abc import Sequence

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Name, Script
from parallel_core.program import Program

Blocks = Sequence[Sequence[int]]
"""Per place on the ring the chunks that end (or start) there."""


def reduce_scatter(group: Group) -> Program:
    """x[n, C]+r -> x[n/r, C].  A chunk starts right of its owner and travels once round to it.

    Each rank it visits adds its own copy.

    Time (n-1)α + (n-1)/n S/β.

        n=3   step 0     step 1
        r0    c2 -> r1   c1 -> r1
        r1    c0 -> r2   c2 -> r2
        r2    c1 -> r0   c0 -> r0
    """
    script = Script("reduce_scatter", "ring", group, group.n)
    sum_round(script, group.ranks, _each(group), 0)
    return script.program()


def all_gather(group: Group) -> Program:
    """x[n/r, C] -> x[n, C].  A chunk starts at its owner and travels round; each rank keeps a copy.

    Time (n-1)α + (n-1)/n S/β.

        n=3   step 0     step 1
        r0    c0 -> r1   c2 -> r1
        r1    c1 -> r2   c0 -> r2
        r2    c2 -> r0   c1 -> r0
    """
    script = Script("all_gather", "ring", group, group.n)
    pass_round(script, group.ranks, _each(group), 0, v.x)
    return script.program()


def all_reduce(group: Group) -> Program:
    """x[C]+r -> x[C].  A reduce-scatter, then an all-gather of the sums.

    Time 2(n-1)α + 2(n-1)/n S/β.

        n=3   step 0     step 1     step 2     step 3
        r0    c2 -> r1   c1 -> r1   c0 -> r1   c2 -> r1
        r1    c0 -> r2   c2 -> r2   c1 -> r2   c0 -> r2
        r2    c1 -> r0   c0 -> r0   c2 -> r0   c1 -> r0
    """
    script = Script("all_reduce", "ring", group, group.n)
    sum_round(script, group.ranks, _each(group), 0)
    pass_round(script, group.ranks, _each(group), group.n - 1, v.total)
    return script.program()


def sum_round(script: Script, ring: Sequence[int], blocks: Blocks, first: int) -> None:
    """Reduce-scatter among the ranks of `ring`: blocks[i] ends summed at ring[i].

    Takes len(ring) - 1 steps from `first` on.
    """
    n = len(ring)
    for k in range(n - 1):
        for i, rank in enumerate(ring):
            script.reduce(first + k, rank, ring[(i + 1) % n], blocks[(i - 1 - k) % n])


def pass_round(script: Script, ring: Sequence[int], blocks: Blocks, first: int, name: Name) -> None:
    """All-gather among the ranks of `ring`: blocks[i], named by `name`, starts at ring[i].

    Takes len(ring) - 1 steps from `first` on.
    """
    n = len(ring)
    for k in range(n - 1):
        for i, rank in enumerate(ring):
            values = [name(c) for c in blocks[(i - k) % n]]
            script.copy(first + k, rank, ring[(i + 1) % n], values)


def _each(group: Group) -> list[tuple[int]]:
    return [(c,) for c in group.ranks]

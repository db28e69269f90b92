"""Recursive halving and doubling: partners whose numbers differ in one bit share the work.

    rank 0 1 2 3 4 5 6 7      halving: first with the rank n/2 away, about half of the buffer,
         |-------|            then n/4 away, about a quarter, ... until one chunk is left;
         |---|                doubling runs the same steps backwards
         |-|

Bytes of a ring in log2 n steps. n that is no power of two is folded (fold.py).
Rabenseifner 2004, doi:10.1007/978-3-540-24685-5_1; Thakur et al. 2005,
doi:10.1177/1094342005051521.
"""

from __future__ import annotations

from collections.abc import Sequence

from parallel_core.collectives import names as v
from parallel_core.collectives.fold import Fold
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Name, Script
from parallel_core.program import Program


def reduce_scatter(group: Group) -> Program:
    """x[n, C]+r -> x[n/r, C].  Partners swap the halves that the other one keeps, and add.

    Time lg n α + (n-1)/n S/β.

        n=4   step 0       step 1
        r0    c2-3 -> r2   c1 -> r1
        r1    c2-3 -> r3   c0 -> r0
        r2    c0-1 -> r0   c3 -> r3
        r3    c0-1 -> r1   c2 -> r2
    """
    group.needs_power_of_two("recursive halving")
    script = Script("reduce_scatter", "halving", group, group.n)
    halve(script, group.ranks, 0)
    return script.program()


def all_gather(group: Group) -> Program:
    """x[n/r, C] -> x[n, C].  Partners swap all they have, which doubles with every step.

    Time lg n α + (n-1)/n S/β.

        n=4   step 0     step 1
        r0    c0 -> r1   c0-1 -> r2
        r1    c1 -> r0   c0-1 -> r3
        r2    c2 -> r3   c2-3 -> r0
        r3    c3 -> r2   c2-3 -> r1
    """
    group.needs_power_of_two("recursive doubling")
    script = Script("all_gather", "doubling", group, group.n)
    double(script, group.ranks, 0, v.x)
    return script.program()


def all_reduce(group: Group) -> Program:
    """x[C]+r -> x[C].  Halve until each rank has one chunk summed, double until all have all.

    Time 2(lg p + f)α + 2((p-1)/p + f) S/β, p the power of two below n, f = 1 where n > p.

        n=4   step 0       step 1     step 2     step 3
        r0    c2-3 -> r2   c1 -> r1   c0 -> r1   c0-1 -> r2
        r1    c2-3 -> r3   c0 -> r0   c1 -> r0   c0-1 -> r3
        r2    c0-1 -> r0   c3 -> r3   c2 -> r3   c2-3 -> r0
        r3    c0-1 -> r1   c2 -> r2   c3 -> r2   c2-3 -> r1
    """
    fold = Fold.of(group)
    chunks = range(len(fold.ranks))
    script = Script("all_reduce", "halving_doubling", group, len(chunks))
    fold.fold_in(script, chunks)
    halve(script, fold.ranks, fold.steps)
    double(script, fold.ranks, fold.steps + fold.levels, v.total)
    fold.hand_back(script, chunks, fold.steps + 2 * fold.levels)
    return script.program()


def halve(script: Script, ranks: Sequence[int], first: int) -> None:
    """Reduce-scatter among a power of two of ranks: chunk i ends summed at ranks[i]."""
    far, step = len(ranks) // 2, first
    while far:
        for i, rank in enumerate(ranks):
            script.reduce(step, rank, ranks[i ^ far], _around(i ^ far, far))
        far, step = far // 2, step + 1


def double(script: Script, ranks: Sequence[int], first: int, name: Name) -> None:
    """All-gather among a power of two of ranks: chunk i, named by `name`, starts at ranks[i]."""
    far, step = 1, first
    while far < len(ranks):
        for i, rank in enumerate(ranks):
            script.copy(step, rank, ranks[i ^ far], [name(c) for c in _around(i, far)])
        far, step = far * 2, step + 1


def _around(i: int, size: int) -> range:
    """The block of `size` chunks that i lies in."""
    start = i - i % size
    return range(start, start + size)

"""Binomial tree: with every step twice as many ranks have it, so log2 n steps are enough.

Ranks are counted from the root: v is the v-th after it. The tree is in the bits of v. v hears
from v without its lowest bit, and leads the ranks from v up to where that bit would turn over.
Any n will do. Thakur, Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521.
"""

from __future__ import annotations

from collections.abc import Iterator

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Name, Script
from parallel_core.program import Program


def broadcast(group: Group) -> Program:
    """x[C] @root -> x[C].  Whoever has the buffer sends it on, first to the farthest.

    Time ⌈lg n⌉(α + S/β).

        n=6   step 0     step 1     step 2
        r0    c0 -> r4   c0 -> r2   c0 -> r1
        r1    .          .          .
        r2    .          .          c0 -> r3
        r3    .          .          .
        r4    .          .          c0 -> r5
        r5    .          .          .
    """
    script = Script("broadcast", "tree", group, 1)
    _down(script, v.x, 0)
    return script.program()


def scatter(group: Group) -> Program:
    """x[n, C] @root -> x[n/r, C].  Each message carries the chunks of all ranks behind it.

    Time ⌈lg n⌉α + (n-1)/n S/β.

        n=6   step 0       step 1       step 2
        r0    c4-5 -> r4   c2-3 -> r2   c1 -> r1
        r1    .            .            .
        r2    .            .            c3 -> r3
        r3    .            .            .
        r4    .            .            c5 -> r5
        r5    .            .            .
    """
    script = Script("scatter", "tree", group, group.n)
    for step, leader, member in edges(group):
        chunks = subtree(group, member)
        values = [v.x(group.from_root(c)) for c in chunks]
        script.copy(step, group.from_root(leader), group.from_root(member), values)
    return script.program()


def gather(group: Group) -> Program:
    """x[n/r, C] -> x[n, C] @root.  The scatter backwards: each rank sends on what it has collected.

    Time ⌈lg n⌉α + (n-1)/n S/β.

        n=6   step 0     step 1       step 2
        r0    .          .            .
        r1    c1 -> r0   .            .
        r2    .          c2-3 -> r0   .
        r3    c3 -> r2   .            .
        r4    .          .            c4-5 -> r0
        r5    c5 -> r4   .            .
    """
    script = Script("gather", "tree", group, group.n)
    for step, leader, member in _upwards(group):
        values = [v.x(group.from_root(c)) for c in subtree(group, member)]
        script.copy(step, group.from_root(member), group.from_root(leader), values)
    return script.program()


def reduce(group: Group) -> Program:
    """x[C]+r -> x[C] @root.  The broadcast backwards: a rank adds before it sends on.

    Time ⌈lg n⌉(α + S/β).

        n=6   step 0     step 1     step 2
        r0    .          .          .
        r1    c0 -> r0   .          .
        r2    .          c0 -> r0   .
        r3    c0 -> r2   .          .
        r4    .          .          c0 -> r0
        r5    c0 -> r4   .          .
    """
    script = Script("reduce", "tree", group, 1)
    _up(script)
    return script.program()


def all_reduce(group: Group) -> Program:
    """x[C]+r -> x[C].  A reduce up the tree, then a broadcast down it.

    Time 2⌈lg n⌉(α + S/β).

        n=4   step 0     step 1     step 2     step 3
        r0    .          .          c0 -> r2   c0 -> r1
        r1    c0 -> r0   .          .          .
        r2    .          c0 -> r0   .          c0 -> r3
        r3    c0 -> r2   .          .          .
    """
    script = Script("all_reduce", "tree", group, 1)
    _up(script)
    _down(script, v.total, group.levels)
    return script.program()


def edges(group: Group) -> Iterator[tuple[int, int, int]]:
    """(step, leader, member) from the root down, counted from the root."""
    for step, bit in enumerate(reversed(range(group.levels))):
        far = 1 << bit
        for leader in range(0, group.n - far, 2 * far):
            yield step, leader, leader + far


def subtree(group: Group, member: int) -> range:
    """The ranks that hear through `member`, itself the first, counted from the root."""
    return range(member, min(member + (member & -member), group.n))


def _upwards(group: Group) -> Iterator[tuple[int, int, int]]:
    for step, leader, member in reversed(list(edges(group))):
        yield group.levels - 1 - step, leader, member


def _down(script: Script, name: Name, first: int) -> None:
    group = script.group
    for step, leader, member in edges(group):
        script.copy(first + step, group.from_root(leader), group.from_root(member), [name(0)])


def _up(script: Script) -> None:
    group = script.group
    for step, leader, member in _upwards(group):
        script.reduce(step, group.from_root(member), group.from_root(leader), (0,))

"""Root-based collectives: everything goes to one rank, or comes from it. The version that teaches.

All other ranks share the root's link: an all-reduce of S bytes takes in (n-1)S there and sends
(n-1)S out again, where a ring's rank sends 2S(n-1)/n.
"""

from __future__ import annotations

from collections.abc import Sequence

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Name, Script
from parallel_core.program import Program


def broadcast(group: Group) -> Program:
    """x[C] @root -> x[C].  The root sends its buffer to one rank after another.

    Time (n-1)(α + S/β).

        n=4   step 0
        r0    c0 -> r1 r2 r3
        r1    .
        r2    .
        r3    .
    """
    script = Script("broadcast", "naive", group, 1)
    _deal(script, v.x, 0)
    return script.program()


def scatter(group: Group) -> Program:
    """x[n, C] @root -> x[n/r, C].  The root sends each rank its chunk.

    Time (n-1)α + (n-1)/n S/β.

        n=4 root=1   step 0
        r0           .
        r1           c2 -> r2; c3 -> r3; c0 -> r0
        r2           .
        r3           .
    """
    script = Script("scatter", "naive", group, group.n)
    _deal_shards(script, v.x, 0)
    return script.program()


def gather(group: Group) -> Program:
    """x[n/r, C] -> x[n, C] @root.  Each rank sends the root its chunk.

    Time (n-1)α + (n-1)/n S/β.

        n=4 root=1   step 0
        r0           c0 -> r1
        r1           .
        r2           c2 -> r1
        r3           c3 -> r1
    """
    script = Script("gather", "naive", group, group.n)
    _collect(script, 0)
    return script.program()


def reduce(group: Group) -> Program:
    """x[C]+r -> x[C] @root.  The root adds what it gets, one rank after another.

    Time (n-1)(α + S/β).

        n=4   step 0
        r0    .
        r1    c0 -> r0
        r2    c0 -> r0
        r3    c0 -> r0
    """
    script = Script("reduce", "naive", group, 1)
    _add_up(script, (0,), 0)
    return script.program()


def all_reduce(group: Group) -> Program:
    """x[C]+r -> x[C].  A reduce to the root, then a broadcast from it.

    Time 2(n-1)(α + S/β).

        n=4   step 0     step 1
        r0    .          c0 -> r1 r2 r3
        r1    c0 -> r0   .
        r2    c0 -> r0   .
        r3    c0 -> r0   .
    """
    script = Script("all_reduce", "naive", group, 1)
    _add_up(script, (0,), 0)
    _deal(script, v.total, 1)
    return script.program()


def all_gather(group: Group) -> Program:
    """x[n/r, C] -> x[n, C].  A gather, then to each rank the chunks that it lacks.

    Time 2(n-1)α + (n-1) S/β.

        n=3   step 0     step 1
        r0    .          c0,2 -> r1; c0-1 -> r2
        r1    c1 -> r0   .
        r2    c2 -> r0   .
    """
    script = Script("all_gather", "naive", group, group.n)
    _collect(script, 0)
    after = int(group.n > 2)  # of two ranks, each already has all that the other lacks
    for rank in _others(group):
        lacks = [v.x(c) for c in group.ranks if c != rank]
        script.copy(after, group.root, rank, lacks)
    return script.program()


def reduce_scatter(group: Group) -> Program:
    """x[n, C]+r -> x[n/r, C].  A reduce to the root, then a scatter from it.

    Time 2(n-1)α + (n²-1)/n S/β.

        n=3   step 0       step 1
        r0    .            c1 -> r1; c2 -> r2
        r1    c0-2 -> r0   .
        r2    c0-2 -> r0   .
    """
    script = Script("reduce_scatter", "naive", group, group.n)
    _add_up(script, group.ranks, 0)
    _deal_shards(script, v.total, 1)
    return script.program()


def _others(group: Group) -> list[int]:
    return [group.from_root(v) for v in range(1, group.n)]


def _add_up(script: Script, chunks: Sequence[int], step: int) -> None:
    for rank in _others(script.group):
        script.reduce(step, rank, script.group.root, chunks)


def _collect(script: Script, step: int) -> None:
    for rank in _others(script.group):
        script.copy(step, rank, script.group.root, [v.x(rank)])


def _deal(script: Script, name: Name, step: int) -> None:
    for rank in _others(script.group):
        script.copy(step, script.group.root, rank, [name(0)])


def _deal_shards(script: Script, name: Name, step: int) -> None:
    for rank in _others(script.group):
        script.copy(step, script.group.root, rank, [name(rank)])

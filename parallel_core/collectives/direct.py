"""Direct: every rank reads from all others at once; nothing is passed on.

One step, so one latency where the reads overlap (shared memory, NVLink). *One-shot* all-reduce
reads whole buffers, (n-1)S a rank; *two-shot* reads one chunk of each, then gathers, 2S(n-1)/n.
The k-th message of a rank goes k places on, so that no two meet at one port.

PyTorch SymmetricMemory one_shot_all_reduce and two_shot_all_reduce,
https://github.com/pytorch/pytorch/blob/main/torch/csrc/distributed/c10d/symm_mem/CUDASymmetricMemoryOps.cu.
"""

from __future__ import annotations

from collections.abc import Iterator

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Name, Script
from parallel_core.program import Program


def all_gather(group: Group) -> Program:
    """x[n/r, C] -> x[n, C].  Every rank hands its chunk to every other.

    Time (n-1)α + (n-1)/n S/β.

        n=3   step 0
        r0    c0 -> r1 r2
        r1    c1 -> r2 r0
        r2    c2 -> r0 r1
    """
    script = Script("all_gather", "direct", group, group.n)
    _spread(script, v.x, 0)
    return script.program()


def reduce_scatter(group: Group) -> Program:
    """x[n, C]+r -> x[n/r, C].  Every rank hands each other rank its copy of that rank's chunk.

    Time (n-1)α + (n-1)/n S/β.

        n=3   step 0
        r0    c1 -> r1; c2 -> r2
        r1    c2 -> r2; c0 -> r0
        r2    c0 -> r0; c1 -> r1
    """
    script = Script("reduce_scatter", "direct", group, group.n)
    _sum_own(script)
    return script.program()


def one_shot(group: Group) -> Program:
    """x[C]+r -> x[C].  Every rank takes in all buffers and adds them, in rank order.

    Time (n-1)(α + S/β).

        n=3   step 0
        r0    c0 -> r1 r2
        r1    c0 -> r2 r0
        r2    c0 -> r0 r1
    """
    script = Script("all_reduce", "one_shot", group, 1)
    for source, destination in pairs(group):
        script.hand(0, source, destination, (0,))
    for rank in group.ranks:
        script.add(0, rank, [other for other in group.ranks if other != rank], (0,))
    return script.program()


def two_shot(group: Group) -> Program:
    """x[C]+r -> x[C].  A direct reduce-scatter, then a direct all-gather of the sums.

    Time 2(n-1)α + 2(n-1)/n S/β.

        n=3   step 0               step 1
        r0    c1 -> r1; c2 -> r2   c0 -> r1 r2
        r1    c2 -> r2; c0 -> r0   c1 -> r2 r0
        r2    c0 -> r0; c1 -> r1   c2 -> r0 r1
    """
    script = Script("all_reduce", "two_shot", group, group.n)
    _sum_own(script)
    _spread(script, v.total, 1)
    return script.program()


def all_to_all(group: Group) -> Program:
    """x[n/r, d, C] -> x[n, d/r, C].  Every rank hands each other rank its block.

    Time (n-1)α + (n-1)/n S/β.

        n=3   step 0
        r0    b1.0 -> r1; b2.0 -> r2
        r1    b2.1 -> r2; b0.1 -> r0
        r2    b0.2 -> r0; b1.2 -> r1
    """
    script = Script("all_to_all", "direct", group, group.n)
    for source, destination in pairs(group):
        script.copy(0, source, destination, [v.block(destination, source)])
    return script.program()


def pairs(group: Group) -> Iterator[tuple[int, int]]:
    """(source, destination) of all n(n-1) messages: first one place on, then two, ..."""
    for far in range(1, group.n):
        for rank in group.ranks:
            yield rank, (rank + far) % group.n


def _sum_own(script: Script) -> None:
    for source, destination in pairs(script.group):
        script.hand(0, source, destination, (destination,))
    for rank in script.group.ranks:
        script.add(0, rank, [other for other in script.group.ranks if other != rank], (rank,))


def _spread(script: Script, name: Name, step: int) -> None:
    for source, destination in pairs(script.group):
        script.copy(step, source, destination, [name(source)])

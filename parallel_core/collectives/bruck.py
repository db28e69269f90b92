"""Bruck: far fewer messages than ranks, for any n, by sending things on.

All-to-all in log2 n steps: a block that must travel j places goes 1, 2, 4, ... places as the bits
of j say, together with all others that share the bit. Each block is sent once per bit, so half of
the buffer a step: (S/2) log2 n bytes, where a direct exchange sends S(n-1)/n in n-1 messages.
Bruck et al. 1997, doi:10.1109/71.642949.
"""

from __future__ import annotations

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Name, Script
from parallel_core.program import Program


def all_to_all(group: Group) -> Program:
    """x[n/r, d, C] -> x[n, d/r, C].  In step k every block whose way has bit k goes 2^k places on.

    Time lg n (α + S/(2β)), n a power of two.

        n=4   step 0            step 1
        r0    b1.0,b3.0 -> r1   b2.0,b2.3 -> r2
        r1    b2.1,b0.1 -> r2   b3.1,b3.0 -> r3
        r2    b3.2,b1.2 -> r3   b0.2,b0.1 -> r0
        r3    b0.3,b2.3 -> r0   b1.3,b1.2 -> r1
    """
    script, n = Script("all_to_all", "bruck", group, group.n), group.n
    for k in range(group.levels):
        for rank in group.ranks:
            ways = [j for j in range(n) if j >> k & 1]
            sources = [(rank - j % (1 << k)) % n for j in ways]  # where the lower bits began
            sent = [v.block((s + j) % n, s) for s, j in zip(sources, ways, strict=True)]
            script.copy(k, rank, (rank + (1 << k)) % n, sent)
    return script.program()


def all_gather(group: Group) -> Program:
    """x[n/r, C] -> x[n, C].  In step k every rank sends all it has 2^k places on.

    Time ⌈lg n⌉α + (n-1)/n S/β.

        n=3   step 0     step 1
        r0    c0 -> r1   c0 -> r2
        r1    c1 -> r2   c1 -> r0
        r2    c2 -> r0   c2 -> r1
    """
    script = Script("all_gather", "bruck", group, group.n)
    spread(script, v.x)
    return script.program()


def spread(script: Script, name: Name) -> None:
    """Every rank's value reaches all: what a rank has doubles each step, the last tops it up."""
    n = script.group.n
    for k in range(script.group.levels):
        count = min(1 << k, n - (1 << k))
        for rank in script.group.ranks:
            values = [name((rank - i) % n) for i in range(count)]
            script.copy(k, rank, (rank + (1 << k)) % n, values)

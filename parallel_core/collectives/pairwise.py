"""Pairwise all-to-all: n-1 steps, in each of which every rank sends to one and hears from one.

The messages are those of the direct exchange (direct.py). What differs is that a step waits for
the one before, so a port never has two at a time: for large blocks. Thakur et al. 2005,
doi:10.1177/1094342005051521.
"""

from __future__ import annotations

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Script
from parallel_core.program import Program


def all_to_all(group: Group) -> Program:
    """x[n/r, d, C] -> x[n, d/r, C].  In step k every rank serves the rank k + 1 places on.

    Time (n-1)α + (n-1)/n S/β.

        n=3   step 0       step 1
        r0    b1.0 -> r1   b2.0 -> r2
        r1    b2.1 -> r2   b0.1 -> r0
        r2    b0.2 -> r0   b1.2 -> r1
    """
    script = Script("all_to_all", "pairwise", group, group.n)
    for step in range(group.n - 1):
        for rank in group.ranks:
            other = (rank + step + 1) % group.n
            script.copy(step, rank, other, [v.block(other, rank)])
    return script.program()

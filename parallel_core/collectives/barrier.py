"""Dissemination barrier: nobody leaves before the last has come, in log2 n steps of empty messages.

It is an all-gather of nothing (bruck.py): who has the word of all ranks knows that all have come.
Hensgen, Finkel and Manber 1988, doi:10.1007/BF01379320.
"""

from __future__ import annotations

from parallel_core.collectives import names as v
from parallel_core.collectives.bruck import spread
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Script
from parallel_core.program import Program


def barrier(group: Group) -> Program:
    """nothing moves; nobody leaves before the last has come.  Step k tells the rank 2^k places on.

    Time ⌈lg n⌉α.

        n=5   step 0     step 1       step 2
        r0    h0 -> r1   h0,4 -> r2   h0 -> r4
        r1    h1 -> r2   h0-1 -> r3   h1 -> r0
        r2    h2 -> r3   h1-2 -> r4   h2 -> r1
        r3    h3 -> r4   h2-3 -> r0   h3 -> r2
        r4    h4 -> r0   h3-4 -> r1   h4 -> r3
    """
    script = Script("barrier", "dissemination", group, group.n)
    spread(script, v.here)
    return script.program()

"""Recursive doubling all-reduce: partners swap their whole running sums.

log2 n messages of the whole buffer: the fewest steps there can be, log2 n times the bytes. For
small messages. n that is no power of two is folded (fold.py). Thakur et al. 2005,
doi:10.1177/1094342005051521.
"""

from __future__ import annotations

from parallel_core.collectives.fold import Fold
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Script
from parallel_core.program import Program


def all_reduce(group: Group) -> Program:
    """x[C]+r -> x[C].  Partners add the same two sums, so all ranks agree to the bit.

    Time (lg p + 2f)(α + S/β), p the power of two below n, f = 1 to fold where n > p.

        n=6   step 0     step 1     step 2     step 3
        r0    c0 -> r1   .          .          .
        r1    .          c0 -> r3   c0 -> r4   c0 -> r0
        r2    c0 -> r3   .          .          .
        r3    .          c0 -> r1   c0 -> r5   c0 -> r2
        r4    .          c0 -> r5   c0 -> r1   .
        r5    .          c0 -> r4   c0 -> r3   .
    """
    fold = Fold.of(group)
    script = Script("all_reduce", "doubling", group, 1)
    fold.fold_in(script, (0,))
    for k in range(fold.levels):
        for i, rank in enumerate(fold.ranks):
            script.reduce(fold.steps + k, rank, fold.ranks[i ^ (1 << k)], (0,))
    fold.hand_back(script, (0,), fold.steps + fold.levels)
    return script.program()

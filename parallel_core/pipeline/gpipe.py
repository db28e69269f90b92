"""GPipe: every forward of the step comes before every backward, on every rank.

    p=3 m=4    rank 0   F0 F1 F2 F3 B0 B1 B2 B3
               rank 1   F0 F1 F2 F3 B0 B1 B2 B3
               rank 2   F0 F1 F2 F3 B0 B1 B2 B3

Makespan (m+p-1)(F+B): the bubble is (p-1)/m of the ideal time m (F+B), (p-1)/(m+p-1) of the total.
Every rank holds all m microbatches at its peak. The paper draws the backwards last to first;
first to last takes as long and adds up the gradients in the order of the other schedules.
Huang et al. 2019, arXiv:1811.06965.
"""

from __future__ import annotations

from parallel_core.pipeline.order import Order, tasks
from parallel_core.pipeline.rules import sized
from parallel_core.program import Op


def gpipe(p: int, m: int) -> Order:
    """m forwards, then m backwards, on each of p ranks; PlanError under p, m = 1."""
    sized(p, m)
    mbs = range(m)
    ranks = ((*tasks(Op.F, mbs, rank), *tasks(Op.B, mbs, rank)) for rank in range(p))
    return Order(tuple(ranks), "gpipe")

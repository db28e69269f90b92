"""Naive layer-wise model parallelism: one microbatch is in the pipeline, so one rank is at work.

    p=3 m=2    rank 0   F0 B0 F1 B1
               rank 1   F0 B0 F1 B1
               rank 2   F0 B0 F1 B1

Rank 0 has nothing to start before its own backward is done, so microbatches follow each other:
makespan m p (F+B), of which a rank works m (F+B). The bubble is p-1 times the ideal time, (p-1)/p
of the total, whatever m is. In exchange each rank holds 1 microbatch at most. It is the "model
parallelism" that GPipe sets out to improve: Huang et al. 2019, figure 2b, arXiv:1811.06965.
"""

from __future__ import annotations

from parallel_core.pipeline.order import Order, Task
from parallel_core.pipeline.rules import sized
from parallel_core.program import Op


def naive(p: int, m: int) -> Order:
    """Each microbatch through all p stages and back before the next; PlanError under p, m = 1."""
    sized(p, m)
    ranks = (
        tuple(Task(op, mb, rank) for mb in range(m) for op in (Op.F, Op.B)) for rank in range(p)
    )
    return Order(tuple(ranks), "naive")

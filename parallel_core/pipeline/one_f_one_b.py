"""1F1B (PipeDream-flush): the order of GPipe's work that frees activations soonest.

    p=3 m=4    rank 0   F0 F1 F2 B0 F3 B1 B2 B3
               rank 1   F0 F1 B0 F2 B1 F3 B2 B3
               rank 2   F0 B0 F1 B1 F2 B2 F3 B3

Rank r warms up with the p-1-r forwards that are under way below it when its first gradient could
come back; from then on each forward is paid with a backward. The bubble is GPipe's, (p-1)/m of the
ideal time, (p-1)/(m+p-1) of the total; but rank r holds at most min(p-r, m) microbatches, not m.
Narayanan et al. 2021, arXiv:2104.04473; from PipeDream-2BW, arXiv:2006.09503.
"""

from __future__ import annotations

from parallel_core.pipeline.order import Order, Task, tasks
from parallel_core.pipeline.rules import sized
from parallel_core.program import Op


def one_f_one_b(p: int, m: int) -> Order:
    """m microbatches over p ranks, one stage each; m < p is legal. PlanError under p, m = 1."""
    sized(p, m)
    return Order(tuple(tuple(_rank(rank, min(p - 1 - rank, m), m)) for rank in range(p)), "1f1b")


def _rank(rank: int, warmup: int, m: int) -> list[Task]:
    steps = tasks(Op.F, range(warmup), rank)
    for mb in range(warmup, m):
        steps += [Task(Op.F, mb, rank), Task(Op.B, mb - warmup, rank)]
    return steps + tasks(Op.B, range(m - warmup, m), rank)

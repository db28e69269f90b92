"""ZB-H1: 1F1B with its backward cut in two; I sends the gradient on at once, W fills the drain.

    p=3 m=4    rank 0   F0 F1 F2 I0 W0 F3 I1 W1 I2 W2 I3 W3
               rank 1   F0 F1 I0 F2 I1 W0 F3 I2 W1 I3 W2 W3
               rank 2   F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3

Nobody waits for W, so rank r puts it off by r microbatches: as many as 1F1B leaves it short of p in
flight. No rank holds more than min(p, m) microbatches, counted from F to W: 1F1B's worst rank.

Where W takes no longer than F or I and m >= p, the bubble is (p-1)(F+I-W), to be divided by
m (F+I+W) for the share of the ideal time; if all three are equal it is (p-1)/(3m+p-1) of the total,
a third of 1F1B's idle time. With fewer microbatches than ranks the step takes (m+p-1)(F+I) + W.
Qi et al. 2023, arXiv:2401.10241 (their B is our I).
"""

from __future__ import annotations

from parallel_core.pipeline.delayed import delayed
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.rules import sized


def zb_h1(p: int, m: int) -> Order:
    """m microbatches over p ranks, one stage each; m < p is legal. PlanError under p, m = 1."""
    sized(p, m)
    ranks = (delayed(rank, m, warmup=p - 1 - rank, delay=rank) for rank in range(p))
    return Order(tuple(ranks), "zb-h1")

"""ZB-H2: ZB-H1 with twice the warm-up and twice the delay of W, so that no rank idles inside.

    p=3 m=5    rank 0   F0 F1 F2 F3 F4 I0 W0 I1 W1 I2 W2 I3 W3 I4 W4
               rank 1   F0 F1 F2 I0 F3 I1 F4 I2 W0 I3 W1 I4 W2 W3 W4
               rank 2   F0 I0 F1 I1 F2 I2 F3 I3 F4 I4 W0 W1 W2 W3 W4

Rank r runs 2(p-1-r) forwards ahead, enough to be busy until its first gradient is back, and puts W
off by 2r microbatches, enough to be busy until its last I. The price is memory: min(2p-1, m)
microbatches on every rank, counted from F to W.

Where W takes no longer than F or I and m >= 2p-1, the worst rank idles for (p-1)(F+I-2W) between
its first and last task: nothing if the three are equal, and the picture is a parallelogram. That is
the bubble inside, over the longest span of a rank. The step as a whole is then still (p-1) F longer
than the work, and only gains where the next one may start on a rank that is through, that is where
the optimizer's barrier goes too. Qi et al. 2023, arXiv:2401.10241 (their B is our I).
"""

from __future__ import annotations

from parallel_core.pipeline.delayed import delayed
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.rules import sized


def zb_h2(p: int, m: int) -> Order:
    """m microbatches over p ranks, one stage each; m < 2p-1 is legal. PlanError under p, m = 1."""
    sized(p, m)
    ranks = (delayed(rank, m, warmup=2 * (p - 1 - rank), delay=2 * rank) for rank in range(p))
    return Order(tuple(ranks), "zb-h2")

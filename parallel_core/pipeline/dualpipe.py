"""DualPipe: microbatches enter at both ends, and a forward hides the messages of a backward.

    p=2 m=4    rank 0   0F0 1F2 0F1 1B2 1F3 0B0 1B3 0I1 0W1
               rank 1   0F2 1F0 0F3 1B0 1F1 0B2 1B1 0I3 0W3

Microbatches 0 to m/2-1 enter at rank 0, the others at rank p-1; so rank r holds stage r for the
first and stage p-1-r for the second, and every stage has two copies, on ranks r and p-1-r. In the
steady state F of one way and B of the other follow each other as one pair, F&B, in which one
computes while the other's all-to-all and stage messages are under way: that is what it is for.

The bubble is (p/2-1)(F&B + B - 3W) in DeepSeek's letters: B is the *whole* backward, I and W, where
the zero-bubble papers write B for I alone. It counts F&B as one piece, whose messages leave at its
end. If they leave as soon as F and B have made them, and F = I = W, half of it remains. No rank
holds more than p+1 microbatches, counted from F to B or W; 2 copies of the weights.
DeepSeek-AI 2024, arXiv:2412.19437; github.com/deepseek-ai/DualPipe.
"""

from __future__ import annotations

from parallel_core.fields import PlanError
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.rules import sized
from parallel_core.pipeline.two_ways import Way, two_ways


def dualpipe(p: int, m: int) -> Order:
    """m microbatches over p ranks, half of them from each end.

    Raises PlanError where p is odd, m is odd, or m < 2p.
    """
    sized(p, m)
    if p % 2:
        raise PlanError("pp", p, "is odd: DualPipe pairs rank r with rank p-1-r", p + 1)
    if m < 2 * p:
        rule = f"is too few: DualPipe fills pp={p} ranks from both ends with pp microbatches each"
        raise PlanError("microbatches", m, rule, 2 * p)
    if m % 2:
        raise PlanError("microbatches", m, "is odd: half of them enter at each end", m + 1)
    ranks = []
    for rank in range(p):
        first = Way(stage=rank, mbs=range(m // 2))
        second = Way(stage=p - 1 - rank, mbs=range(m // 2, m))
        near, far = (first, second) if rank < p // 2 else (second, first)
        ranks.append(two_ways(min(rank, p - 1 - rank), p // 2, near=near, far=far))
    return Order(tuple(ranks), "dualpipe")

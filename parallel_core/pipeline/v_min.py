"""V-Min: the V with the least memory, a third of 1F1B's, at about two thirds of its bubble.

    p=2 m=3 v=2    rank 0   0F0 3F0 3I0 0F1 3W0 0I0 0W0 3F1 3I1 0F2 3W1 0I1 0W1 3F2 3I2 3W2 0I2 0W2
                   rank 1   1F0 2F0 2I0 1I0 1F1 2F1 2W0 1W0 2I1 1I1 1F2 2F2 2W1 1W1 2I2 1I2 2W2 1W2

The block goes straight through, a beat a stage, down, up and back: it lives for 4p beats, so a rank
holds 2p/3 chunks. Where 3 divides p the passes of two microbatches would meet on a rank, so the
block then waits 2 beats more before its backward; elsewhere it has no slack, and to take forwards
early would make the step longer. No rank holds more than (p+4)//3 microbatches (// rounds down),
counted from F to W, where 1F1B has p.

With F, I and W equal the authors give a bubble of about two thirds of 1F1B's (p-1)(F+I+W). Ours,
for p >= 2 and m >= p, is (4p-5)/6 of F+I+W, and (4p-7)/6 where 3 divides p. If F, I and W differ it
mostly grows with every microbatch, which ZB-V's does not. Twice the messages of 1F1B.
Qi et al. 2024, arXiv:2405.15362 (their B is our I).
"""

from __future__ import annotations

from parallel_core.pipeline.order import Order
from parallel_core.pipeline.rules import sized
from parallel_core.pipeline.v_shape import Block, v_shape


def v_min(p: int, m: int) -> Order:
    """m microbatches over p ranks with two stages each; any m. PlanError under p, m = 1."""
    sized(p, m)
    collides = p % 3 == 0
    block = Block(steps=(1, 1, 1, 1), turns=(1, 3 if collides else 1, 1), early=collides)
    return v_shape(p, m, block, cap=2 * ((p + 4) // 3), name="v-min")

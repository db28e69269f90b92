"""V-Half: the V with half of 1F1B's memory, and half of its bubble.

    p=2 m=3 v=2    rank 0   0F0 0F1 0F2 3F0 3I0 3W0 3F1 0I0 3I1 0W0 3W1 3F2 3I2 0I1 3W2 0I2 0W1 0W2
                   rank 1   1F0 2F0 1F1 2F1 2I0 1I0 2W0 1F2 1W0 2F2 2I1 1I1 2I2 1I2 2W1 1W1 2W2 1W2

The block steps 2 beats a rank down and 1 up, forward and backward: it lives for 6p beats, p chunks.
For even p the passes of two microbatches would meet on a rank, so the block then waits 3 beats more
before its backward. No rank holds more than (p+2)//2 microbatches (// rounds down), counted from F
to W, where 1F1B has p.

With F, I and W equal the authors give a bubble of about half of 1F1B's (p-1)(F+I+W). Ours, for
p >= 3 and m >= p, is (3p-4)/6 of F+I+W for odd p and (3p-7)/6 for even p. With other times it still
does not grow with m while W + 2I >= 2F and W + 2F >= 2I. Twice the messages of 1F1B.
Qi et al. 2024, arXiv:2405.15362 (their B is our I).
"""

from __future__ import annotations

from parallel_core.pipeline.order import Order
from parallel_core.pipeline.rules import sized
from parallel_core.pipeline.v_shape import Block, v_shape


def v_half(p: int, m: int) -> Order:
    """m microbatches over p ranks with two stages each; any m. PlanError under p, m = 1."""
    sized(p, m)
    block = Block(steps=(2, 1, 2, 1), turns=(1, 1 if p % 2 else 4, 2))
    return v_shape(p, m, block, cap=2 * ((p + 2) // 2), name="v-half")

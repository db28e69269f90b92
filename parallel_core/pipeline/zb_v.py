"""ZB-V: a V whose ranks are never idle once they began, with no more memory than 1F1B.

    p=2 m=3 v=2    rank 0   0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 0I0 3W1 0W0 3F2 3I2 0I1 3W2 0I2 0W1 0W2
                   rank 1   1F0 2F0 1F1 2F1 2I0 1I0 2W0 1F2 1W0 2F2 2I1 1I1 2I2 1I2 2W1 1W1 2W2 1W2

Rank r holds stages r and 2p-1-r: the forward ends where it began, so the backward can start on
every rank soon after, and the ranks finish in the order in which they began. The block steps
1 beat a rank down and 5 up: in the steady state a rank does F, F, I, I of four microbatches and two
W, the next rank the same a beat later. It lives for 12p beats: 2p chunks, p microbatches, on every
rank. (Other blocks of that life are squeezed into the same time.)

If F, I and W take the same time and m >= 2p-1, no rank idles between its first and its last task:
the bubble rate is 0. What a barrier at the end leaves is the fill, p-1 forwards of a chunk:
(p-1)/(6m+p-1) of the time. With fewer microbatches ranks wait inside too. Twice the messages.
Qi et al. 2023, arXiv:2401.10241, section 6; blocks: Qi et al. 2024, arXiv:2405.15362.
"""

from __future__ import annotations

from parallel_core.pipeline.order import Order
from parallel_core.pipeline.rules import sized
from parallel_core.pipeline.v_shape import Block, v_shape


def zb_v(p: int, m: int) -> Order:
    """m microbatches over p ranks with two stages each; any m. PlanError under p, m = 1."""
    sized(p, m)
    return v_shape(p, m, Block(steps=(1, 5, 1, 5)), cap=2 * p, name="zb-v")

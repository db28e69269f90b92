"""DualPipeV: DualPipe cut in half and folded into a V, so that one copy of the weights is enough.

    p=2 m=4 v=2  rank 0  0F0 0F1 0F2 3F0 3I0 3W0 3F1 0F3 3B1 3F2 0B0 3B2 3F3 0B1 3B3 0I2 0W2 0I3 0W3
                 rank 1  1F0 2F0 1F1 2F1 1F2 2B0 2F2 1B0 1F3 2B1 2F3 1B1 2B2 1B2 2I3 1I3 2W3 1W3

DualPipe's second half of the ranks does the first half's work in the mirror. Leave it out: let the
stream that enters at rank 0 pass p ranks down, turn on the last and come back as the other stream.
Rank r then holds stages r and 2p-1-r, and runs what rank r of DualPipe on 2p ranks runs.

The bubble is (p-1)(F&B + B - 3W) with F, B (the *whole* backward, I and W) and W of one stage: two
such stages make up a rank, so it is DualPipe's formula for as many stages on half as many ranks. No
rank holds more than 2p+1 chunks (one microbatch on one stage), p + 1/2 microbatches. Against 1F1B
on p ranks: twice the messages, one copy of the weights. The DualPipe repository counts 2, since it
compares with 1F1B of as many stages, where a device has one of them.
The cut is due to Sea AI Lab; DeepSeek-AI 2024, arXiv:2412.19437; github.com/deepseek-ai/DualPipe.
"""

from __future__ import annotations

from parallel_core.fields import PlanError
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.rules import sized
from parallel_core.pipeline.two_ways import Way, two_ways


def dualpipe_v(p: int, m: int) -> Order:
    """m microbatches over p ranks with two stages each. Raises PlanError where m < 2p."""
    sized(p, m)
    if m < 2 * p:
        rule = f"is too few: DualPipeV fills both ways of pp={p} ranks with pp microbatches each"
        raise PlanError("microbatches", m, rule, 2 * p)
    mbs = range(m)
    ranks = (
        two_ways(r, p, near=Way(stage=r, mbs=mbs), far=Way(stage=2 * p - 1 - r, mbs=mbs))
        for r in range(p)
    )
    return Order(tuple(ranks), "dualpipe-v")

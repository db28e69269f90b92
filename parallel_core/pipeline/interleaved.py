"""Interleaved 1F1B: a rank holds v chunks of the model, p stages apart, and 1F1B runs over chunks.

    p=2 m=4 v=2    rank 0   0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3
                   rank 1   1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3

Stage = chunk p + rank. Microbatches go in groups of p: a group passes chunk 0, then chunk 1, so
it is back on rank 0 just as the group is through; backwards take the chunks in reverse. Rank r
warms up with 2(p-1-r) + (v-1)p forwards of a chunk, Megatron's count. 1F1B warms up with one for
each rank below; if messages took no time one would do here too, and the second hides them.

Filling takes chunks, 1/v of a stage each: the bubble is (p-1)/(v m) of the ideal time,
(p-1)/(v m + p-1) of the total. The price: v times the messages, wrap-around included, and rank r
holds min(2(p-1-r) + (v-1)p + 1, v m) chunks at its peak, v of them a microbatch: rank 0 as much as
p (1 + (p-1)/(p v)) microbatches, more than 1F1B's p. Narayanan et al. 2021, arXiv:2104.04473.
"""

from __future__ import annotations

from parallel_core.fields import PlanError
from parallel_core.pipeline.order import Order, Task
from parallel_core.pipeline.rules import sized
from parallel_core.program import Op


def interleaved(p: int, m: int, v: int) -> Order:
    """m microbatches over p ranks with v stages each.

    Raises PlanError where v < 2, or m does not come in groups of p.
    """
    sized(p, m)
    if v < 2:
        rule = "is too few: interleaving puts at least 2 stages on a rank"
        raise PlanError("virtual_stages", v, rule, 2)
    if m % p:
        rule = f"does not come in groups of pp={p}, which interleaving passes from chunk to chunk"
        raise PlanError("microbatches", m, rule, max(1, round(m / p)) * p)
    return Order(tuple(tuple(_rank(rank, p, m, v)) for rank in range(p)), "interleaved")


def _rank(rank: int, p: int, m: int, v: int) -> list[Task]:
    forwards, backwards = [], []
    for group in range(0, m, p):
        mbs = range(group, group + p)
        for chunk in range(v):
            forwards += [Task(Op.F, mb, chunk * p + rank) for mb in mbs]
            backwards += [Task(Op.B, mb, (v - 1 - chunk) * p + rank) for mb in mbs]
    warmup = min(2 * (p - 1 - rank) + (v - 1) * p, m * v)
    steady = zip(forwards[warmup:], backwards, strict=False)
    cooldown = backwards[m * v - warmup :]
    return forwards[:warmup] + [task for pair in steady for task in pair] + cooldown

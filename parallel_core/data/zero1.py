"""ZeRO-1: every rank updates its shard of the weights and keeps the optimizer state of that alone.

    layers=1 dp=2 bucket_mb=0.8, last microbatch
    compute  ... B head, B layer0, B embed, wait bucket0, wait bucket1, norm, O weights
    comm         reduce_scatter bucket0, reduce_scatter bucket1, all_reduce tally,
                 all_gather bucket0, all_gather bucket1

The all-reduce of plain data parallelism is a reduce-scatter and an all-gather; the update stands
between the two. Traffic is the same, 2Ψ elements a rank; the optimizer's K bytes a weight become
K/n. Gradients are accumulated whole, and scattered once a step. arXiv:1910.02054, section 5.1.
"""

from __future__ import annotations

from parallel_core.data import step
from parallel_core.data.blocks import blocks
from parallel_core.data.sharded import ending, gather_all, over_replicas, replicate, scatter
from parallel_core.plan import Plan
from parallel_core.program import Instr, Program


def zero1(plan: Plan) -> Program:
    """g[N]+dp -> g[N/dp], update, w[N/dp] -> w[N]."""
    shape, last = step.Shape.of(plan), plan.microbatches - 1
    closes = {block.units[-1]: b for b, block in enumerate(blocks(plan))}
    instrs: list[Instr] = []
    for mb in range(plan.microbatches):
        instrs += step.forward(shape, mb)
        if mb == last:
            instrs.append(step.reduce_loss(shape))
        backward = zip(reversed(range(len(shape.units))), step.backward(shape, mb), strict=True)
        for u, instr in backward:
            instrs.append(instr)
            if mb == last and u in closes:
                instrs += scatter(plan, closes[u], mb, before=None)
                instrs += over_replicas(plan, closes[u], mb)
    return replicate(plan, [*instrs, *ending(plan), *gather_all(plan)])

"""ZeRO-2: a unit's gradient is scattered as soon as it exists; a whole gradient never does.

    layers=1 dp=2, one microbatch
    compute  ... B head, B layer0, wait head, B embed, wait ...
    comm         reduce_scatter head, reduce_scatter layer0, reduce_scatter embed, ...

At most two units' gradients are whole at a time: before the third backward the compute lane waits
for the first sum (a tied table's is whole from the head's backward to its own). What stays is a
shard of Ψ/n. The price comes with accumulation: every microbatch scatters, m of them move (m+1)Ψ
elements where stage 1 moves 2Ψ. arXiv:1910.02054, section 5.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.data.blocks import blocks
from parallel_core.data.sharded import (
    block_name,
    ending,
    gather_all,
    over_replicas,
    replicate,
    scatter,
    summed,
)
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program

WHOLE = 2
"""Units whose gradient may be whole at a time."""


def zero2(plan: Plan) -> Program:
    """g[u]+dp -> g[u/dp] after each backward of a unit; update; w[u/dp] -> w[u]."""
    shape, last = step.Shape.of(plan), plan.microbatches - 1
    instrs: list[Instr] = []
    for mb in range(plan.microbatches):
        instrs += step.forward(shape, mb)
        if mb == last:
            instrs.append(step.reduce_loss(shape))
        for b, instr in enumerate(step.backward(shape, mb, fresh=True)):
            instrs += wait_for_room(plan, b, mb)
            instrs.append(instr)
            instrs += reduce_unit(plan, b, mb)
    return replicate(plan, [*instrs, *ending(plan), *gather_all(plan)])


def wait_for_room(plan: Plan, b: int, mb: int) -> list[Instr]:
    """Before the backward of block b: that of two blocks earlier must have been scattered, be it
    the microbatch's own or one at the end of the microbatch before."""
    cut = blocks(plan)
    earlier = mb * len(cut) + b - WHOLE
    if earlier < 0:
        return []
    mb_before, b_before = divmod(earlier, len(cut))
    before = cut[b_before].units[0]
    ended = mb_before == plan.microbatches - 1
    done = summed(plan, before) if ended else v.grad_shard(before, mb_before)
    where = block_name(plan, b_before)
    return [Instr(op=Op.WAIT, where=where, mb=mb_before, reads=(done,))]


def reduce_unit(plan: Plan, b: int, mb: int) -> Iterator[Instr]:
    """After the backward of block b: its sum, and in the last microbatch that over replicas."""
    yield from scatter(plan, b, mb, before=mb - 1 if mb else None)
    if mb == plan.microbatches - 1:
        yield from over_replicas(plan, b, mb)

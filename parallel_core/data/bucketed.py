"""Bucketed data parallelism (DDP): sum a bucket of gradients while the backward goes on.

    layers=2 dp=2 bucket_mb=0.8
    compute  F embed, F layer0, F layer1, F head, B head, B layer1, B layer0, B embed,
             wait bucket0, wait bucket1, O weights
    comm     all_reduce loss, all_reduce bucket0, all_reduce bucket1

The sum of bucket0 (head and layer1) starts when B layer1 is done and runs under B layer0.
Buckets are filled in the order the backward completes gradients, and only the last microbatch
launches them: earlier ones accumulate locally. The last bucket can never hide: it is complete
only when the backward is over. Li et al. 2020, PyTorch Distributed, arXiv:2006.15704, 3.2.3.
"""

from __future__ import annotations

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.pieces import pieces
from parallel_core.plan import DType, Plan
from parallel_core.program import Instr, Lane, Op, Program


def buckets(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Units by bucket, in backward order; a bucket closes once it holds `bucket_mb` MiB. Experts
    that are shared out have buckets of their own, since fewer ranks have the same ones.

    >>> buckets(Plan.of(layers=2, bucket_mb=1.0))
    ((3, 2, 1), (0,))
    """
    cap = plan.bucket_mb * 2**20
    width = DType(plan.dtype).bytes
    every = pieces(plan)
    done: list[tuple[int, ...]] = []
    filling: dict[str, list[int]] = {piece.axis: [] for piece in every if piece.axis}
    last = {piece.axis: u for u, piece in reversed([*enumerate(every)]) if piece.specs}
    for u in reversed(range(len(every))):
        axis = every[u].axis
        if not axis or not every[u].specs:
            continue
        filling[axis].append(u)
        if sum(every[i].numel for i in filling[axis]) * width >= cap or u == last[axis]:
            done.append(tuple(filling[axis]))
            filling[axis] = []
    return tuple(done)


def bucketed(plan: Plan) -> Program:
    """g[u]+dp -> g[u], a bucket of units at a time, under the rest of the backward."""
    shape = step.Shape.of(plan)
    last, filled = plan.microbatches - 1, buckets(plan)
    closes = {bucket[-1]: b for b, bucket in enumerate(filled)}
    order = tuple(reversed(range(len(shape.units))))
    instrs: list[Instr] = []
    for mb in range(plan.microbatches):
        instrs += step.forward(shape, mb)
        if mb == last:
            instrs.append(step.reduce_loss(shape))  # early, so that its latency hides too
        for u, instr in zip(order, step.backward(shape, mb), strict=True):
            instrs.append(instr)
            if mb == last and u in closes:
                instrs.append(_sum_bucket(plan, closes[u], filled[closes[u]]))
    for b, bucket in enumerate(filled):
        summed = tuple(v.gsum(u) for u in bucket)
        instrs.append(Instr(op=Op.WAIT, where=f"bucket{b}", reads=summed))
    instrs.append(step.optimizer(shape, step.summed(plan)))
    return step.replicate(plan, instrs, f"dp bucketed m={plan.microbatches}")


def _sum_bucket(plan: Plan, b: int, bucket: tuple[int, ...]) -> Instr:
    mine = tuple(v.grad(u, plan.microbatches - 1) for u in bucket)
    summed = tuple(v.gsum(u) for u in bucket)
    return Instr(
        op=Op.ALL_REDUCE,
        where=f"bucket{b}",
        lane=Lane.COMM,
        axis=pieces(plan)[bucket[0]].axis,
        reads=mine,
        writes=summed,
        frees=mine,
    )

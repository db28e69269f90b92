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
from parallel_core.plan import DType, Plan
from parallel_core.program import Instr, Lane, Op, Program


def buckets(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Units by bucket, in backward order; a bucket closes once it holds `bucket_mb` MiB.

    >>> buckets(Plan.of(layers=2, bucket_mb=1.0))
    ((3, 2, 1), (0,))
    """
    cap = plan.bucket_mb * 2**20
    width = DType(plan.dtype).bytes
    sizes = [sum(s.numel for s in specs) * width for specs in step.specs_by_unit(plan)]
    done: list[tuple[int, ...]] = []
    filling: list[int] = []
    for u in reversed(range(len(sizes))):
        filling.append(u)
        if sum(sizes[i] for i in filling) >= cap or u == 0:
            done.append(tuple(filling))
            filling = []
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
                instrs.append(_sum_bucket(shape, closes[u], filled[closes[u]]))
    for b, bucket in enumerate(filled):
        summed = tuple(v.gsum(u) for u in bucket)
        instrs.append(Instr(op=Op.WAIT, where=f"bucket{b}", reads=summed))
    instrs.append(step.optimizer(shape, [v.gsum(u) for u in range(len(shape.units))]))
    return step.replicate(plan, instrs, f"dp bucketed m={plan.microbatches}")


def _sum_bucket(shape: step.Shape, b: int, bucket: tuple[int, ...]) -> Instr:
    mine = tuple(v.grad(u, shape.microbatches - 1) for u in bucket)
    summed = tuple(v.gsum(u) for u in bucket)
    return Instr(
        op=Op.ALL_REDUCE,
        where=f"bucket{b}",
        lane=Lane.COMM,
        axis="dp",
        reads=mine,
        writes=summed,
        frees=mine,
    )

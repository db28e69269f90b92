"""Data parallelism: every rank holds the whole model and a share of the batch.

The table is the folder's reading list: step.py first, then the methods in this order.
"""

from collections.abc import Callable

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.data.bucketed import bucketed
from parallel_core.data.naive import naive
from parallel_core.data.zero1 import zero1
from parallel_core.data.zero2 import zero2
from parallel_core.data.zero3 import zero3
from parallel_core.plan import Plan
from parallel_core.program import Program

METHODS: dict[str, Callable[[Plan], Program]] = {"naive": naive, "bucketed": bucketed}

STAGES: dict[int, Callable[[Plan], Program]] = {1: zero1, 2: zero2, 3: zero3}
"""ZeRO, by what is sharded: optimizer state, gradients too, weights too."""


def alone(plan: Plan) -> Program:
    """One process: no messages; the optimizer reads the rank's own gradients."""
    shape = step.Shape.of(plan)
    instrs = []
    for mb in range(plan.microbatches):
        instrs += step.forward(shape, mb) + step.backward(shape, mb)
    last = plan.microbatches - 1
    instrs.append(step.optimizer(shape, [v.grad(u, last) for u in range(len(shape.units))]))
    return step.replicate(plan, instrs, f"single m={plan.microbatches}")


def program(plan: Plan) -> Program:
    """The training step of a plan whose only axis is dp."""
    if plan.zero:
        return STAGES[plan.zero](plan)
    return alone(plan) if plan.gradient_ranks == 1 else METHODS[plan.dp_method](plan)

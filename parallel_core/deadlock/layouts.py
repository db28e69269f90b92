"""A whole training run under NCCL's semantics: any layout, its messages in line with its tasks.

The lab's own programs give each direction of a pipeline a lane, so nothing stands behind a message
that it does not need. Code without asynchronous sends has one line a rank, and in it

    rank 0   F0 send   F1 send ..  B0        1F1B: rank 0 hands a forward down just as rank 1
    rank 1      recv F0  B0 send ..          hands a gradient up, each before it takes the other's

`in_line` makes that code of any program: the same instructions in the same order, one lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from parallel_core.cases import program_of
from parallel_core.deadlock.programs import Case
from parallel_core.fields import PlanError
from parallel_core.machine import check_bears
from parallel_core.pipeline.order import Order
from parallel_core.plan import OWN, Plan, Server
from parallel_core.program import Lane, Program

BATCH = 8
"""Sequences in a step of a reader's own order, rounded up to whole microbatches."""

SMALL: Mapping[str, Any] = {"hidden": 32, "heads": 4, "seq": 32}
"""The model of a reader's own order: what hangs hangs at any size."""

CURE = "let each direction have a lane of its own, as `shardlab run` does"


def in_line(program: Program) -> Program:
    """The same instructions in the same order, every one of them on the compute lane."""
    ranks = tuple(
        tuple(replace(instr, lane=Lane.COMPUTE) for instr in instrs) for instrs in program.ranks
    )
    return replace(program, ranks=ranks)


def case_of_layout(plan: Plan) -> Case:
    """A step of `plan` in line, which may hang, and with its lanes, which does not.

    Raises PlanError for a plan whose ranks never wait for each other in a fixed order, and for
    one that this machine does not bear.
    """
    if plan.world_size < 2:
        raise PlanError("dp", 1, "leaves one rank, which waits for nobody", 2)
    if plan.parameter_server != Server.OFF:
        rule = "serves whoever comes first: there is no order that could hang"
        raise PlanError("parameter_server", plan.parameter_server, rule, "off")
    check_bears(plan)
    return Case(
        plan.layout,
        "a training whose careless form has one lane a rank: messages in line with tasks",
        CURE,
        lambda: in_line(program_of(plan)),
        lambda: program_of(plan),
    )


def plan_of_order(order: Order) -> Plan:
    """The plan that trains a small model in a reader's own order."""
    return Plan.of(
        **SMALL,
        pp=order.p,
        microbatches=order.m,
        layers=order.stages,
        global_batch=-(-BATCH // order.m) * order.m,
        schedule=OWN,
        order=str(order),
    )

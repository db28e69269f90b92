"""The training step of any plan: which builder its axes call for."""

from __future__ import annotations

from parallel_core import data
from parallel_core.pipedream_step import pipedream_step
from parallel_core.pipeline_step import pipeline_step
from parallel_core.plan import Plan
from parallel_core.program import Program
from parallel_core.tensor_step import tensor_step


def program(plan: Plan) -> Program:
    """The training step of a plan as data."""
    if plan.tp > 1:
        return tensor_step(plan)
    if plan.pp == 1:
        return data.program(plan)
    return pipedream_step(plan) if plan.asynchronous else pipeline_step(plan)

"""The training step of any plan: which builder its axes call for."""

from __future__ import annotations

from parallel_core import data
from parallel_core.activations.offload import offloaded
from parallel_core.expert_step import with_tokens
from parallel_core.inner_step import inner_step
from parallel_core.pipedream_step import pipedream_step
from parallel_core.pipeline_step import pipeline_step
from parallel_core.pipeline_zero import pipeline_zero
from parallel_core.plan import Plan
from parallel_core.program import Program


def program(plan: Plan) -> Program:
    """The training step of a plan as data."""
    if plan.pp == 1:
        whole = data.program(plan)
    elif plan.zero:
        whole = pipeline_zero(plan)
    else:
        whole = pipedream_step(plan) if plan.asynchronous else pipeline_step(plan)
    whole = inner_step(plan, with_tokens(plan, whole))
    return offloaded(plan, whole) if plan.offload else whole

"""A Case is one thing the lab can predict, run and verify. The table says which there are.

`program(plan)` is the step as data, `live` the target that runs it on real ranks, `oracle` the
single process it must equal, `source` the paper it comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parallel_core import assemble
from parallel_core.data import server_step
from parallel_core.plan import Plan, Server
from parallel_core.program import Program


@dataclass(frozen=True)
class Case:
    """How one kind of layout is built, run and held against the truth."""

    name: str
    program: Callable[[Plan], Program]
    live: str
    oracle: str
    source: str


PRELOAD = ("parallel_core.runtime", "parallel_core.oracle", "parallel_core.parameter_server")
"""What a pool imports once for all ranks, so that a run starts at once."""

SERVE = "parallel_core.parameter_server:train"
TRAIN, ORACLE = "parallel_core.runtime:train", "parallel_core.oracle:train"

CASES: dict[str, Case] = {
    "single": Case("single", assemble.program, TRAIN, ORACLE, "one process"),
    "dp": Case("dp", assemble.program, TRAIN, ORACLE, "Li et al. 2020, arXiv:2006.15704"),
    "ps": Case("ps", server_step.program, SERVE, ORACLE, "Dean et al. 2012"),
    "pp": Case("pp", assemble.program, TRAIN, ORACLE, "Huang et al. 2018, arXiv:1811.06965"),
}


def case_of(plan: Plan) -> Case:
    """The case that a plan's layout is an instance of."""
    if plan.parameter_server != Server.OFF:
        return CASES["ps"]
    if plan.pp > 1:
        return CASES["pp"]
    return CASES["single" if plan.world_size == 1 else "dp"]


def program_of(plan: Plan) -> Program:
    """The training step of a plan, as data."""
    return case_of(plan).program(plan)

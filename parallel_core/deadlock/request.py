"""A strict training as a reader asks for it, ready for a Pool: `pool.start(*asked.order)`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from parallel_core.deadlock.finding import BUFFERED, CURED, PASSING, STRICT, TRAINING
from parallel_core.deadlock.layouts import case_of_layout, plan_of_order
from parallel_core.fields import choice, validate, whole
from parallel_core.pipeline.order import Order
from parallel_core.plan import Plan
from parallel_core.program import Program

TARGET = f"{TRAINING}:train"


@dataclass(frozen=True, kw_only=True)
class StrictRun:
    """One training with its messages in line with its tasks, or, cured, with a lane for each.

    >>> StrictRun.of_order(Order.parse("F0 F1 B0 B1\\nF0 B0 F1 B1")).plan.pp
    2
    """

    plan: Plan
    passing: str = choice(STRICT, PASSING, "how messages are passed")
    steps: int = whole(1, 1, 1000, "training steps")

    def __post_init__(self) -> None:
        validate(self)

    @classmethod
    def of_order(cls, order: Order, passing: str = STRICT) -> StrictRun:
        """A small model trained in just this order; raises PlanError for an illegal one."""
        return cls(plan=plan_of_order(order), passing=passing)

    def checked(self) -> StrictRun:
        """The same, if its ranks wait in a fixed order and the machine bears it; else PlanError."""
        case_of_layout(self.plan)
        return self

    @cached_property
    def program(self) -> Program:
        """One step as it runs."""
        case = case_of_layout(self.plan)
        return case.cured() if self.passing == CURED else case.careless()

    @property
    def order(self) -> tuple[str, int, dict[str, Any]]:
        """Target, world size and arguments, as Pool.start and Jobs.submit take them."""
        args = {
            "plan": self.plan.flat(),
            "steps": self.steps,
            "cured": self.passing == CURED,
            "buffered": self.passing == BUFFERED,
        }
        return TARGET, self.plan.world_size, args

    def command(self, file: str) -> str:
        """The command line that runs the same from a file with the order."""
        flag = "" if self.passing == STRICT else f" --{self.passing}"
        return f"shardlab deadlock --file {file}{flag}"

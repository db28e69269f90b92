"""What is asked of a run beside its plan: how many steps, whether to compare, what to save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from parallel_core.cases import case_of
from parallel_core.fields import PlanError, switch, validate, whole
from parallel_core.machine import check_bears
from parallel_core.mixtral import computes_as_mixtral, named_by_mixtral
from parallel_core.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Request:
    """One training run, ready for a Pool: `pool.start(*request.order)`."""

    plan: Plan
    steps: int = whole(20, 0, 1_000_000, "training steps; 0 only makes the initial weights")
    parity: bool = switch(True, "compare with one process after the run")
    save_weights: str | None = None
    save_grads: str | None = None
    save_batch: str | None = None

    def __post_init__(self) -> None:
        validate(self)
        if self.save_grads and not self.steps:
            raise PlanError("steps", 0, "makes no gradient to save", 1)
        if self.plan.model.block and (self.save_weights or self.save_grads):
            raise PlanError(
                "block", self.plan.model.block, "has no name among Hugging Face's", "none"
            )
        if self.plan.model.experts and self.save_weights:
            computes_as_mixtral(self.plan.model)
        if self.plan.model.experts and self.save_grads:
            named_by_mixtral(self.plan.model)

    @classmethod
    def of(cls, **flat: Any) -> Request:
        """A request from flat fields, a plan's and a run's together."""
        own = {f.name for f in fields(cls)} - {"plan"}
        mine = {k: v for k, v in flat.items() if k in own}
        return cls(plan=Plan.of(**{k: v for k, v in flat.items() if k not in own}), **mine)

    def checked(self) -> Request:
        """The same request, if this machine bears it; raises PlanError if not."""
        check_bears(self.plan)
        return self

    @property
    def args(self) -> dict[str, Any]:
        """The arguments of the live target, JSON-ready."""
        saves: Mapping[str, Any] = {
            key.removeprefix("save_"): value
            for key, value in asdict(self).items()
            if key.startswith("save_") and value
        }
        return {
            "plan": self.plan.flat(),
            "steps": self.steps,
            "parity": self.parity,
            "save": dict(saves),
        }

    @property
    def order(self) -> tuple[str, int, dict[str, Any]]:
        """Target, world size and arguments, as Pool.start and Jobs.submit take them."""
        return case_of(self.plan).live, self.plan.world_size, self.args

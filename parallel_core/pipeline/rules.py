"""What every schedule asks of its sizes: whole numbers, at least one rank and one microbatch."""

from __future__ import annotations

from parallel_core.fields import PlanError


def sized(p: int, m: int) -> None:
    """Refuse, as a PlanError, a pipeline without ranks or without microbatches."""
    for name, value, noun in (("pp", p, "rank"), ("microbatches", m, "microbatch")):
        if value < 1:
            raise PlanError(name, value, f"is too few: a pipeline has at least one {noun}", 1)

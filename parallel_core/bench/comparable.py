"""What a plan must be so that it has a fair peer, as tables that a bench can be read off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from parallel_core.fields import PlanError
from parallel_core.plan import Plan

Rule = tuple[str, Any, bool, str, Any]
"""A field, its value, whether that may be, the rule in words, and the nearest value that may."""


def must_hold(rules: Iterable[Rule]) -> None:
    """PlanError for the first rule that does not hold."""
    for field, value, holds, rule, near in rules:
        if not holds:
            raise PlanError(field, value, rule, near)


def must_be(plan: Plan, only: Mapping[str, tuple[Any, str]]) -> None:
    """PlanError for the first field whose value is not the one in `only`, which says why."""
    fields = plan.flat()
    must_hold(
        (name, fields.get(name), fields.get(name, value) == value, rule, value)
        for name, (value, rule) in only.items()
    )

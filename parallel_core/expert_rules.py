"""What a model of experts refuses, each rule with the nearest value that works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parallel_core.choices import NONE, Balance, RouterKind
from parallel_core.fields import PlanError, nearest_where

if TYPE_CHECKING:
    from parallel_core.model_shape import ModelShape

EXPERT_FIELDS = (
    *("top_k", "router", "score", "balance", "capacity", "shared_experts", "aux_loss"),
    *("bias_rate", "z_loss", "expert_groups", "group_limit", "skew"),
)
"""The fields that say something about experts alone."""


def check(shape: ModelShape) -> None:
    """PlanError for the first rule about experts that the shape breaks."""
    if not shape.experts:
        for name in EXPERT_FIELDS:
            usual = type(shape).__dataclass_fields__[name].default
            if (value := getattr(shape, name)) != usual:
                rule = "needs experts, as in experts=8"
                raise PlanError(name, value, rule, NONE if usual is None else usual)
        return
    if shape.experts == 1:
        raise PlanError("experts", 1, "leaves nothing to choose; 0 is a dense model", 2)
    if shape.top_k > shape.experts:
        rule = f"must be at most experts={shape.experts}"
        raise PlanError("top_k", shape.top_k, rule, shape.experts)
    _router(shape)
    _groups(shape)


def _router(shape: ModelShape) -> None:
    if shape.router == RouterKind.EXPERT_CHOICE and shape.balance != Balance.NONE:
        rule = "has nothing to balance where experts choose: each takes as many tokens"
        raise PlanError("balance", shape.balance, rule, Balance.NONE)
    if shape.router == RouterKind.DROPLESS and shape.capacity != _usual(shape, "capacity"):
        rule = "says nothing of router=dropless, which has room for all"
        raise PlanError("capacity", shape.capacity, rule, _usual(shape, "capacity"))
    for name, method in (("aux_loss", Balance.AUX), ("bias_rate", Balance.BIAS)):
        if shape.balance != method and (value := getattr(shape, name)) != _usual(shape, name):
            raise PlanError(name, value, f"needs balance={method}", _usual(shape, name))


def _usual(shape: ModelShape, name: str) -> object:
    return type(shape).__dataclass_fields__[name].default


def _groups(shape: ModelShape) -> None:
    if shape.experts % shape.expert_groups:
        fits = [n for n in range(1, 65) if shape.experts % n == 0]
        rule = f"must divide experts={shape.experts}"
        near = nearest_where(shape.expert_groups, fits)
        raise PlanError("expert_groups", shape.expert_groups, rule, near)
    if shape.group_limit is None:
        return
    if shape.expert_groups == 1:
        raise PlanError("group_limit", shape.group_limit, "needs expert_groups of 2 or more", NONE)
    if shape.router == RouterKind.EXPERT_CHOICE:
        rule = "does not work where experts choose"
        raise PlanError("group_limit", shape.group_limit, rule, NONE)
    fewest = -(-shape.top_k * shape.expert_groups // shape.experts)
    if not fewest <= shape.group_limit <= shape.expert_groups:
        rule = (
            f"must be from {fewest}, where top_k={shape.top_k} experts are,"
            f" to expert_groups={shape.expert_groups}"
        )
        near = min(max(shape.group_limit, fewest), shape.expert_groups)
        raise PlanError("group_limit", shape.group_limit, rule, near)

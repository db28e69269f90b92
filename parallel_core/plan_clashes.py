"""What cannot be combined, and why: one line a pair.

Every other product of axes is legal, as far as its sizes divide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallel_core.choices import NONE, Balance, Recompute, Server
from parallel_core.fields import PlanError, shown

if TYPE_CHECKING:
    from parallel_core.plan import Plan


@dataclass(frozen=True)
class Clash:
    """A field that must keep its default, or take `instead`, where `when` holds."""

    field: str
    when: Callable[[Plan], bool]
    why: str
    instead: object = None
    only: object = None  # the one value of the field that clashes; None for all but the default


def _served(plan: Plan) -> bool:
    return plan.parameter_server != Server.OFF


def _own(plan: Plan) -> bool:
    return plan.model.block is not None


OF_OUR_BLOCK = ("tp", "cp", "experts", "offload", "dropout", "parameter_server", "attention")
"""Choices that say how the lab's own block computes."""

CLASHES = (
    Clash("zero", _served, "does not work with a parameter server"),
    Clash("pp", _served, "does not work with a parameter server"),
    Clash("microbatches", _served, "does not work with a parameter server"),
    Clash("clip", _served, "does not work with a parameter server"),
    Clash("offload", _served, "does not work with a parameter server"),
    Clash("tp", _served, "does not work with a parameter server"),
    Clash("cp", _served, "does not work with a parameter server"),
    Clash("experts", _served, "does not work with a parameter server"),
    Clash(
        "zero",
        lambda p: p.asynchronous,
        "shares out one version of the weights, and here every microbatch makes a new one",
    ),
    Clash(
        "balance",
        lambda p: p.asynchronous,
        "moves a router by the loads of a step, and no two stages end theirs together",
        only=Balance.BIAS,
    ),
    Clash(
        "clip",
        lambda p: p.asynchronous,
        "needs the norm of all stages at once, and each is updated alone",
    ),
    Clash(
        "tied",
        lambda p: p.asynchronous,
        "has two copies that asynchronous updates would let drift apart",
    ),
    Clash(
        "recompute",
        lambda p: p.asynchronous,
        "would use newer weights than the forward did",
        instead=Recompute.SELECTIVE,
        only=Recompute.FULL,
    ),
    Clash(
        "keep_gathered",
        lambda p: p.pp > 1,
        "would keep every stage whole through all microbatches in flight",
    ),
    Clash(
        "overlap_tp",
        lambda p: p.model.experts > 0,
        "does not work with experts: a router sees its input whole before any product",
    ),
    Clash(
        "offload",
        lambda p: p.ep > 1,
        "would let go of rows and gates that the pieces on both sides of a journey keep",
    ),
    *(Clash(name, _own, "does not work with a block of your own") for name in OF_OUR_BLOCK),
    Clash(
        "recompute",
        _own,
        "would run attention again, which a block of your own may not have",
        instead=Recompute.FULL,
        only=Recompute.SELECTIVE,
    ),
    Clash(
        "schedule",
        lambda p: _own(p) and p.pp > 1 and p.pipeline.splits,
        "cuts the backward of the lab's own products in two; that of a block of your own is whole",
        instead="1f1b",
    ),
)


def check(plan: Plan) -> None:
    """PlanError for the first two choices that do not go together."""
    fields = {**type(plan.model).__dataclass_fields__, **type(plan).__dataclass_fields__}
    for clash in CLASHES:
        usual = fields[clash.field].default
        value = getattr(plan.model if hasattr(plan.model, clash.field) else plan, clash.field)
        chosen = value != usual if clash.only is None else value == clash.only
        if chosen and clash.when(plan):
            near = usual if clash.instead is None else clash.instead
            told = shown(value) if fields[clash.field].metadata["kind"] is str else value
            raise PlanError(clash.field, told, clash.why, NONE if near is None else near)

"""A plan's attention under each context-parallel method: its clock, its bytes, those of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from parallel_core.context import METHODS, layout_of
from parallel_core.context.crossover import Ring
from parallel_core.context.layout import AXIS, HEADS, RING
from parallel_core.context.traffic import LayerShape, sent
from parallel_core.context_moves import layer_shape
from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.views.context_clock import Clock

AXES = (AXIS, HEADS, RING)
"""Mesh axes that carry a method's messages, and nothing else."""


def shape_of(plan: Plan, method: str, *, zigzag: bool | None = None) -> LayerShape:
    """One attention layer of the plan under `method`; ValueError if its heads cannot be dealt out.

    `zigzag` cuts the sequence another way than the method does.
    """
    layout = layout_of(method, plan.seq, ranks=plan.cp, ulysses=plan.ulysses or 2)
    return layer_shape(plan, layout if zigzag is None else replace(layout, zigzag=zigzag))


def rivals(clock: Clock, plan: Plan) -> tuple[Clock, ...]:
    """Contiguous against zigzag; besides the clock itself, where it is neither of them."""
    both = tuple(
        replace(clock, method=name, shape=shape_of(plan, name)) for name in ("ring", "zigzag")
    )
    return both if clock in both else (*both, clock)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one rank sends for one layer and microbatch: messages and bytes, forward and backward.

    `refused` is the sentence of a method that this plan cannot have. `counted` is what a run sent.
    """

    method: str
    messages: tuple[int, int] = (0, 0)
    sent: tuple[int, int] = (0, 0)
    refused: str = ""
    counted: float | None = None

    @property
    def total(self) -> int:
        """Bytes of both ways."""
        return sum(self.sent)


def traffic(plan: Plan, counted: Mapping[str, float]) -> list[Traffic]:
    """Every method at this plan; `counted` are bytes of runs, by method."""
    found = []
    for name in METHODS:
        try:
            shape = shape_of(plan, name)
        except ValueError as error:
            found.append(Traffic(method=name, refused=str(error)))
            continue
        ways = [METHODS[name].moves(shape, backward) for backward in (False, True)]
        found.append(
            Traffic(
                method=name,
                messages=(len(ways[0]), len(ways[1])),
                sent=(sent(ways[0], shape.layout), sent(ways[1], shape.layout)),
                counted=counted.get(name),
            )
        )
    return found


def counted(report: Mapping[str, Any], plan: Plan) -> float:
    """Bytes that a rank was counted to send for one layer and microbatch, from a run's report."""
    wire = report["ledger"]["wire"]["measured"]
    every = sum(op["wire_bytes"] for axis in AXES for op in wire.get(axis, {}).values())
    times = max(len(report["steps"]), 1) * plan.model.layers * plan.microbatches
    return float(every) / (times * plan.world_size)


def rows(found: list[Traffic]) -> list[dict[str, str]]:
    """The table: a row a method."""
    return [
        {
            "method": one.method,
            "messages": f"{one.messages[0]} + {one.messages[1]}",
            "forward": bytes_text(one.sent[0]),
            "backward": bytes_text(one.sent[1]),
            "counted in a run": "not run yet" if one.counted is None else _verdict(one),
        }
        for one in found
        if not one.refused
    ]


def _verdict(one: Traffic) -> str:
    assert one.counted is not None
    if one.counted == one.total:
        return f"{one.counted:,.0f} bytes = predicted"
    return f"{one.counted:,.10g} bytes, predicted {one.total:,}"


def hides(plan: Plan, balance: float) -> tuple[float, float]:
    """Tokens of a sequence from which a hop of kv hides: beside a whole tile, beside half of one.

    A causal zigzag hop is half a tile, so it needs twice as many.
    """
    shape = shape_of(plan, "ring")
    ring = Ring(
        n=plan.cp,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        flops=balance,
        bytes_per_s=1.0,
        width=shape.width,
    )
    return ring.kv_hides_from, 2 * ring.kv_hides_from

"""A plan's ranks as a grid, and its layout in words."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from parallel_core.choices import Balance, Server
from parallel_core.context.layout import AXIS, HEADS, RING
from parallel_core.expert.ways import ACROSS, INSIDE
from parallel_core.mesh import Mesh

if TYPE_CHECKING:
    from parallel_core.plan import Plan


ROUTERS = "routers"
"""Join: of the ranks whose tokens a router sees, where stages of a pipeline have two copies."""

MODEL, OWNERS = "model", "owners"
"""Joins: of all axes that cut the model, where there are several; and of those and the axis over
which ZeRO cuts its state, so that each of its ranks owns something of its own."""

Axes = tuple[tuple[str, int], ...]
Joins = list[tuple[str, tuple[str, ...]]]


def mesh_of(plan: Plan) -> Mesh:
    """The ranks as a grid; inner to outer tp-cp-dp-pp, or as the plan says.

    "dp" are the ranks whose gradients are summed: those of a sequence (cp) and those of other
    sequences ("batch"). Experts (ep) and the shards of HSDP are dealt out to neighbours of these,
    so that the same ranks are divided in several ways: an axis is what no way divides further.
    """
    if plan.parameter_server != Server.OFF:
        return Mesh((("ps", plan.dp + 1),))
    summed, joins = _summed(plan)
    if plan.kv_copies > 1:
        joins.insert(0, ("tp", ("kv_copy", "kv")))
    pp = (("pp", plan.pp),) if plan.pp > 1 else ()
    parts = dict(joins)

    def base(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for axis in axes for part in parts.get(axis, (axis,))))

    if len(plan.model_axes) > 1:
        joins.append((MODEL, base(plan.model_axes)))
    if plan.zero and plan.model_axes:
        joins.append((OWNERS, base((plan.shard_axis, *plan.model_axes))))
    if plan.model.balance == Balance.BIAS and plan.loads_axis == ROUTERS:
        joins.append((ROUTERS, base(("dp", "pp"))))
    blocks = {"tp": _tensor_axes(plan), "cp": (), "dp": summed, "pp": pp}
    axes = tuple(axis for name in plan.rank_order.split("-") for axis in blocks[name])
    return Mesh(axes, tuple(joins))


def divisions(plan: Plan) -> dict[str, tuple[int, int]]:
    """The ways in which the ranks of dp and cp are divided, cp before batch: by name from which
    stride to which. An axis of strides (2, 8) has 4 ranks, each 2 apart."""
    total = plan.gradient_ranks
    found: dict[str, tuple[int, int]] = {}
    if plan.cp > 1:
        heads = plan.context.ulysses
        if min(heads, plan.context.rings) > 1:
            found |= {HEADS: (1, heads), RING: (heads, plan.cp)}
        found[AXIS] = (1, plan.cp)
    if plan.ep > 1:
        if plan.ep_node is not None:
            found |= {INSIDE: (1, plan.ep_node), ACROSS: (plan.ep_node, plan.ep)}
        found["ep"] = (1, plan.ep)
        if plan.ep < total or plan.zero:
            found["edp"] = (plan.ep, total)
    if plan.shard_axis == "shard":
        found |= {"shard": (1, plan.shards), "replica": (plan.shards, total)}
        if plan.ep > 1:
            found["expert_shard"] = (plan.ep, plan.shards)
    if plan.cp > 1 and plan.dp > 1:
        found["batch"] = (plan.cp, total)
    return found | {"dp": (1, total)}


def _summed(plan: Plan) -> tuple[Axes, Joins]:
    """The axes over which gradients are summed, and the names of products of them."""
    ways = divisions(plan)
    marks = sorted({stride for way in ways.values() for stride in way})
    axes: list[tuple[str, int]] = []
    for way in pairwise(marks):
        name = next((n for n, other in ways.items() if other == way), f"dp{way[0]}")
        axes.append((name, way[1] // way[0]))
    axes = axes or [("dp", 1)]
    joins: Joins = []
    for name, (low, high) in ways.items():
        inside = [axes[i][0] for i, mark in enumerate(marks[:-1]) if low <= mark < high]
        if inside != [name] and inside:
            joins.append((name, tuple(inside)))
        elif low == high and (name, 1) not in axes and name != "dp":
            axes.append((name, 1))
    return tuple(axes), joins


def divides(ways: dict[str, tuple[int, int]]) -> bool:
    """Whether all these ways can divide the same ranks: each stride a multiple of the one below."""
    marks = sorted({stride for way in ways.values() for stride in way})
    return all(high % low == 0 for low, high in pairwise(marks))


def expert_ranks(plan: Plan) -> list[int]:
    """The numbers of ranks that can share out the experts of a plan."""
    by_ep = (INSIDE, ACROSS, "expert_shard")
    ways = {name: way for name, way in divisions(plan).items() if name not in by_ep}
    total = plan.gradient_ranks
    return [
        n
        for n in range(1, min(plan.model.experts, total) + 1)
        if plan.model.experts % n == 0
        and total % n == 0
        and divides({**ways, "ep": (1, n), "edp": (n, total)})
    ]


def shard_groups(plan: Plan) -> list[int]:
    """The sizes that groups of shards can have: each divides what the others divide."""
    kept = (AXIS, HEADS, RING, "dp", "batch")
    ways = {name: way for name, way in divisions(plan).items() if name in kept}
    total = plan.gradient_ranks
    small = [n for n in range(1, math.isqrt(total) + 1) if total % n == 0]
    every = sorted({*small, *(total // n for n in small)})
    return [n for n in every if divides({**ways, "shard": (1, n), "replica": (n, total)})]


def _tensor_axes(plan: Plan) -> tuple[tuple[str, int], ...]:
    if plan.kv_copies > 1:
        return (("kv_copy", plan.kv_copies), ("kv", plan.model.kv))
    return (("tp", plan.tp),) if plan.tp > 1 else ()


def in_words(plan: Plan) -> str:
    """The layout in one phrase, for badges and tables."""
    parts = [f"dp={plan.dp} ({_sharing(plan)})"] if plan.dp > 1 or plan.zero else []
    if plan.tp > 1:
        parts.append(f"tp={plan.tp}" + (" + sp" if plan.sp else ""))
    if plan.cp > 1:
        parts.append(f"cp={plan.cp} ({plan.cp_method})")
    if plan.ep > 1:
        parts.append(f"ep={plan.ep}")
    if plan.pp > 1:
        v = plan.pipeline.stages // plan.pp
        several = f" v={v}" if v > 1 else ""
        parts.append(f"pp={plan.pp} ({plan.schedule}{several}, m={plan.microbatches})")
    return " x ".join(parts) or "one process"


def _sharing(plan: Plan) -> str:
    if plan.parameter_server != Server.OFF:
        return f"{plan.parameter_server} parameter server"
    if not plan.zero:
        return plan.dp_method
    if plan.shard_axis == "dp":
        return f"ZeRO-{plan.zero}"
    return f"ZeRO-{plan.zero} over {plan.shards}, {plan.dp // plan.shards} replicas"

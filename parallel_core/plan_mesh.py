"""A plan's ranks as a grid, and its layout in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parallel_core.choices import Server
from parallel_core.context.layout import AXIS, HEADS, RING
from parallel_core.mesh import Mesh

if TYPE_CHECKING:
    from parallel_core.plan import Plan


def mesh_of(plan: Plan) -> Mesh:
    """The ranks as a grid; inner to outer tp-cp-dp-pp.

    Under context parallelism the ranks of a sequence sum their gradients with those of other
    sequences: "dp" joins both, and "batch" alone says who has which sequences.
    """
    if plan.parameter_server != Server.OFF:
        return Mesh((("ps", plan.dp + 1),))
    if plan.shard_axis == "shard":
        axes = (("shard", plan.shards), ("replica", plan.dp // plan.shards))
        return Mesh(axes, joins=(("dp", ("shard", "replica")),))
    joins: list[tuple[str, tuple[str, ...]]] = []
    if plan.kv_copies > 1:
        joins.append(("tp", ("kv_copy", "kv")))
    if plan.cp == 1:
        pp = (("pp", plan.pp),) if plan.pp > 1 else ()
        return Mesh((*_tensor_axes(plan), ("dp", plan.dp), *pp), tuple(joins))
    parts = _context_axes(plan)
    if len(parts) > 1:
        joins.append(("cp", tuple(name for name, _ in parts)))
    summed = (*parts, *((("batch", plan.dp),) if plan.dp > 1 else ()))
    joins.append(("dp", tuple(name for name, _ in summed)))
    return Mesh((*_tensor_axes(plan), *summed), tuple(joins))


def _context_axes(plan: Plan) -> tuple[tuple[str, int], ...]:
    layout = plan.context
    if min(layout.ulysses, layout.rings) > 1:
        return ((HEADS, layout.ulysses), (RING, layout.rings))
    return ((AXIS, plan.cp),)


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

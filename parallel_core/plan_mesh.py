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
    summed, more = _summed_axes(plan)
    pp = (("pp", plan.pp),) if plan.pp > 1 else ()
    joins += more
    if summed != (("dp", plan.dp),):
        joins.append(("dp", tuple(name for name, _ in summed)))
    if len(plan.model_axes) > 1:
        parts = dict(joins)
        every = [part for axis in plan.model_axes for part in parts.get(axis, (axis,))]
        joins.append((MODEL, tuple(every)))
    return Mesh((*_tensor_axes(plan), *summed, *pp), tuple(joins))


MODEL = "model"
"""The join of all axes that cut the model, where there are several."""

Axes = tuple[tuple[str, int], ...]
Joins = list[tuple[str, tuple[str, ...]]]


def _summed_axes(plan: Plan) -> tuple[Axes, Joins]:
    """The axes over which gradients are summed, and the names of products of some of them.

    Experts are dealt out to ranks of these axes: neighbours first, cp before batch.
    """
    parts = _context_axes(plan) if plan.cp > 1 else ()
    joins: Joins = [("cp", tuple(name for name, _ in parts))] if len(parts) > 1 else []
    names = tuple(name for name, _ in parts)
    rest = plan.gradient_ranks // plan.ep
    if plan.ep == 1:
        batch = (("batch", plan.dp),) if plan.dp > 1 else ()
        return ((*parts, *batch), joins) if parts else ((("dp", plan.dp),), joins)
    if plan.ep < plan.cp and parts[0][1] == plan.ep and len(parts) > 1:
        batch = (("batch", plan.dp),) if plan.dp > 1 else ()
        joins += [("ep", names[:1]), ("edp", (*names[1:], *(name for name, _ in batch)))]
        return (*parts, *batch), joins
    if plan.ep < plan.cp:
        axes: Axes = (("ep", plan.ep), ("cp_rest", plan.cp // plan.ep))
        axes += (("batch", plan.dp),) if plan.dp > 1 else ()
        return axes, [("cp", ("ep", "cp_rest")), ("edp", tuple(name for name, _ in axes[1:]))]
    inner = plan.ep // plan.cp
    edp = (("edp", rest),) if rest > 1 else ()
    if not parts:
        return (("ep", plan.ep), *edp), joins
    more = (("ep_batch", inner),) if inner > 1 else ()
    joins.append(("ep", (*names, *(name for name, _ in more))))
    if more or edp:
        joins.append(("batch", tuple(name for name, _ in (*more, *edp))))
    return (*parts, *more, *edp), joins


def expert_ranks(plan: Plan) -> list[int]:
    """The numbers of ranks that can share out the experts of a plan."""
    u = plan.context.ulysses if plan.cp > 1 else 1
    single = plan.cp == 1 or min(plan.context.ulysses, plan.context.rings) == 1
    found = []
    for n in range(1, plan.gradient_ranks + 1):
        beyond = n % plan.cp == 0 and plan.gradient_ranks % n == 0
        within = plan.cp % n == 0 and (single or n in (1, u))
        if (beyond or within) and plan.model.experts % n == 0:
            found.append(n)
    return found


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

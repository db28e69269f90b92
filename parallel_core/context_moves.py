"""The messages of a plan's context-parallel attention, and what of the work they travel beside."""

from __future__ import annotations

from functools import lru_cache

from parallel_core.context import METHODS
from parallel_core.context.layout import Layout, work
from parallel_core.context.traffic import LayerShape, Move
from parallel_core.plan import DType, Plan


@lru_cache(maxsize=256)
def moves(plan: Plan, *, backward: bool) -> tuple[Move, ...]:
    """Those of one layer and microbatch on one rank, in order; none without cp."""
    if plan.cp == 1:
        return ()
    return METHODS[plan.cp_method].moves(layer_shape(plan, plan.context), backward)


def layer_shape(plan: Plan, layout: Layout) -> LayerShape:
    """One attention layer of the plan as `layout` cuts it; ValueError if its heads cannot be dealt
    out."""
    return LayerShape(
        layout=layout,
        batch=plan.rows_per_microbatch,
        heads=plan.model.heads // plan.tp,
        kv_heads=plan.kv_here,
        head_dim=plan.model.head_dim,
        width=DType(plan.dtype).bytes,
    )


def sizes(plan: Plan) -> dict[str, int]:
    """Bytes of what they carry, by the name of its value."""
    both = (*moves(plan, backward=False), *moves(plan, backward=True))
    return {value_name(move): move.bytes for move in both}


def value_name(move: Move) -> str:
    """The name of the value that a message hands over."""
    return f"cp_{move.what}"


def unevenness(plan: Plan) -> tuple[float, ...]:
    """How many times the mean attention of all ranks each member of the ring has to do.

    Under a causal mask a contiguous part attends to the keys before it: the first to the least.
    """
    sums = [sum(hops) for hops in work(plan.context, True, METHODS[plan.cp_method].travels)]
    return tuple(float(own * len(sums) / sum(sums)) for own in sums)


def shares_of_hops(plan: Plan, place: int) -> list[float]:
    """Which part of a rank's attention it does at each hop: 1 in all, or 0 where it has none."""
    member = place // plan.context.ulysses
    each = work(plan.context, True, METHODS[plan.cp_method].travels)[member]
    whole = sum(each)
    return [float(part / whole) if whole else 0.0 for part in each]

"""The messages of a plan's context-parallel attention, and what of the work they travel beside."""

from __future__ import annotations

from functools import lru_cache

from parallel_core.context import METHODS
from parallel_core.context.layout import work
from parallel_core.context.traffic import LayerShape, Move
from parallel_core.plan import DType, Plan


@lru_cache(maxsize=256)
def moves(plan: Plan, *, backward: bool) -> tuple[Move, ...]:
    """Those of one layer and microbatch on one rank, in order; none without cp."""
    if plan.cp == 1:
        return ()
    shape = LayerShape(
        layout=plan.context,
        batch=plan.rows_per_microbatch,
        heads=plan.model.heads // plan.tp,
        kv_heads=max(plan.model.kv // plan.tp, 1),
        head_dim=plan.model.head_dim,
        width=DType(plan.dtype).bytes,
    )
    return METHODS[plan.cp_method].moves(shape, backward)


def sizes(plan: Plan) -> dict[str, int]:
    """Bytes of what they carry, by the name of its value."""
    both = (*moves(plan, backward=False), *moves(plan, backward=True))
    return {value_name(move): move.bytes for move in both}


def value_name(move: Move) -> str:
    """The name of the value that a message hands over."""
    return f"cp_{move.what}"


def shares_of_hops(plan: Plan, place: int) -> list[float]:
    """Which part of a rank's attention it does at each hop: 1 in all, or 0 where it has none."""
    member = place // plan.context.ulysses
    each = work(plan.context, True, METHODS[plan.cp_method].travels)[member]
    whole = sum(each)
    return [float(part / whole) if whole else 0.0 for part in each]

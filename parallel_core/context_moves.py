"""The messages of a plan's context-parallel attention, and what of the work they travel beside."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from parallel_core.context import METHODS
from parallel_core.context.layout import work
from parallel_core.context.traffic import LayerShape, Move
from parallel_core.plan import Dialect, DType, Plan
from parallel_core.program import Instr, Op


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


def unevenness(plan: Plan) -> Callable[[int, Instr], float] | None:
    """How many times the mean work of all ranks a rank has in a task; None where all have as much.

    Under a causal mask a contiguous part attends to the keys before it: the first to the least.
    """
    if plan.cp == 1:
        return None
    table = work(plan.context, True, METHODS[plan.cp_method].travels)
    sums = [float(sum(hops)) for hops in table]
    mean = sum(sums) / len(sums)
    matrices = 2 * plan.model.hidden * (plan.model.hidden + plan.model.kv * plan.model.head_dim)
    wide = 3 if plan.model.dialect == Dialect.LLAMA else 2
    products = 2.0 * (matrices + wide * plan.model.hidden * plan.model.mlp)
    attention = 4.0 * plan.seq * plan.model.hidden
    part = attention / (products + attention)

    def times(rank: int, instr: Instr) -> float:
        if not instr.where.startswith("layer") or instr.op not in (Op.F, Op.B):
            return 1.0
        member = plan.mesh.coordinate(rank)["cp"] // plan.context.ulysses
        return 1.0 + part * (sums[member] / mean - 1.0)

    return times


def shares_of_hops(plan: Plan, place: int) -> list[float]:
    """Which part of a rank's attention it does at each hop: 1 in all, or 0 where it has none."""
    member = place // plan.context.ulysses
    each = work(plan.context, True, METHODS[plan.cp_method].travels)[member]
    whole = sum(each)
    return [float(part / whole) if whole else 0.0 for part in each]

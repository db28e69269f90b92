"""Bytes of every value and FLOPs of every instruction of a plan's training step.

The ledger, the simulator's memory and the predicted wire traffic all read these two functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from parallel_core import context_moves
from parallel_core.activations.held import held_bytes
from parallel_core.activations.saved import offloaded_bytes, saved_bytes
from parallel_core.data.blocks import blocks
from parallel_core.params import ROUTE, Piece, pieces, table_spec
from parallel_core.plan import DType, Plan, Recompute, RouterKind
from parallel_core.program import Instr, Op, Value

INT64, FLOAT64 = 8, 8


def value_bytes(plan: Plan) -> Callable[[Value], int]:
    """Bytes of a value on its rank, by name (values.py lists the names)."""
    width = DType(plan.dtype).bytes
    every = pieces(plan)
    whole = [piece.numel * width for piece in every]
    tokens = plan.tokens_here
    saved = [sum(saved_bytes(plan, unit) for unit in piece.units) for piece in every]
    away = [sum(offloaded_bytes(plan, unit) for unit in piece.units) for piece in every]
    held = [sum(held_bytes(plan, unit) for unit in piece.units) for piece in every]
    waiting = {"held": held, "host": away, "back": away}
    table = table_spec(plan).numel * width
    fixed = {"ids": 2 * tokens * INT64, "loss": max(width, 4)}
    fixed |= _regions(plan, tokens, width) | context_moves.sizes(plan)
    fixed |= dict.fromkeys(("tally", "total"), 2 * FLOAT64) | {"ticket": INT64}
    fixed |= dict.fromkeys(("table", "tsum", "tcame", "tall", "newtable"), table)
    if plan.pp > 1:
        fixed["tie"] = table  # a copy of its own; in one process it lies in the embedding's

    pads, shards = _cut(plan, width)
    partial = _partial(plan, width)

    def size(value: Value) -> int:
        match value.name:
            case "ws" | "nws" | "gshard" | "gpart":
                return shards[value.at[0]]
            case "gsum" if plan.zero:
                return shards[value.at[0]]
            case "full" | "block":
                return pads[value.at[0] if value.name == "block" else len(every) - 1 - value.at[0]]
            case "w" | "new" | "gsum" | "grad" | "came" | "gall":
                return whole[value.at[0]]
            case "part":
                return every[value.at[0]].specs[value.at[1]].numel * width
            case "saved":
                return saved[value.at[1]]
            case "whole" | "copies":
                return sum(partial[value.name][u] for u in value.at)
            case "moved":
                return sum(_layers_of(every[u]) for u in value.at) * plan.model.experts * INT64
            case "held" | "host" | "back":
                return waiting[value.name][value.at[1]]
        return fixed.get(value.name, 0)

    return size


def _regions(plan: Plan, tokens: int, width: int) -> dict[str, int]:
    """Activations between the units, and what tensor parallelism's messages hand over."""
    whole = tokens * plan.model.hidden * width
    sizes = {"region": whole, "row": tokens * max(width, 4)}
    sizes |= dict.fromkeys(("cutregion", "again"), whole // plan.tp)
    sizes |= dict.fromkeys(("act", "dact"), whole // plan.tp if plan.sp else whole)
    if plan.model.experts:
        sizes |= _routed(plan, tokens, width)
    return sizes


def _partial(plan: Plan, width: int) -> dict[str, list[int]]:
    """Bytes of each piece's gradients that are parts of a sum over a model axis."""
    return {
        name: [sum(s.numel for s in p.specs if axis in s.partial) * width for p in pieces(plan)]
        for name, axis in (("whole", "tp"), ("copies", "kv_copy"))
    }


def _routed(plan: Plan, tokens: int, width: int) -> dict[str, int]:
    """What experts' messages hand over, where loads are even."""
    m = plan.model
    rows = rows_routed(plan) * m.hidden * width
    return {
        "rows": rows,
        "drows": rows,
        "counts": m.experts * INT64,
        "logits": tokens * m.experts * max(width, 4),
    }


def _layers_of(piece: Piece) -> int:
    """Layers whose routers are in a piece."""
    whole = (unit for unit in piece.units if unit.startswith("layer"))
    return sum("." not in unit or unit.endswith(ROUTE) for unit in whole)


def rows_routed(plan: Plan) -> int:
    """Rows that one rank sends to experts in a microbatch and layer, where none is dropped."""
    m = plan.model
    if m.router == RouterKind.EXPERT_CHOICE:
        places = min(math.ceil(m.capacity * m.top_k * plan.seq / m.experts), plan.seq)
        return plan.rows_per_microbatch * places * m.experts // plan.cp
    return plan.tokens_here * m.top_k


def _cut(plan: Plan, width: int) -> tuple[list[int], dict[int, int]]:
    """ZeRO's bytes: of each padded block, and by unit of a rank's shard of its block.

    A block of several units is one message; its bytes are booked on its first unit.
    """
    cut = blocks(plan) if plan.zero else ()
    shards = {u: 0 for block in cut for u in block.units}
    shards |= {block.units[0]: block.shard * width for block in cut}
    return [block.padded * width for block in cut], shards


def flops(plan: Plan) -> Callable[[Instr], float]:
    """Floating-point operations of a compute instruction.

    A forward spends 2 per weight of a matrix and token, plus 4·s·D a token for the two attention
    products (causal masking not discounted); a backward twice that (Kaplan et al. 2020,
    arXiv:2001.08361, section 2.1), half of it in I and half in W, but attention's all in I, and
    once more what it computes again. The optimizer is booked at 12 an element.
    """
    tokens = plan.tokens_here
    products = {piece.name: 2.0 * tokens * _matrices(plan, piece) for piece in pieces(plan)}
    layers = {p.name: sum(u.startswith("layer") for u in p.units) for p in pieces(plan)}
    attention = 4.0 * plan.seq * plan.model.hidden * tokens / plan.tp
    again = {piece.name: _again(plan, piece, tokens, attention) for piece in pieces(plan)}
    elements = {piece.name: piece.numel for piece in pieces(plan)}
    elements["weights"] = sum(elements.values()) // plan.pp  # a rank's share, about

    def count(instr: Instr) -> float:
        if instr.op == Op.O:
            return 12.0 * elements.get(instr.where, elements["weights"])
        if instr.where not in products:
            return 0.0
        times = {Op.F: (1, 1), Op.B: (2, 2), Op.I: (1, 2), Op.W: (1, 0)}.get(instr.op, (0, 0))
        once = times[0] * products[instr.where] + times[1] * layers[instr.where] * attention
        return once + (again[instr.where] if instr.op in (Op.B, Op.I) else 0.0)

    return count


def _again(plan: Plan, piece: Piece, tokens: int, attention: float) -> float:
    """What a backward of the piece computes a second time."""
    kinds = {unit: plan.recompute_in(unit) for unit in piece.units}
    whole = {unit for unit, kind in kinds.items() if kind == Recompute.FULL}
    weights = sum(s.numel for s in piece.specs if len(s.shape) == 2 and s.unit in whole)
    cores = sum(kind != Recompute.NONE for kind in kinds.values())
    return 2.0 * tokens * weights + cores * attention


def _matrices(plan: Plan, piece: Piece) -> int:
    """Elements of the piece's matrices; the embedding's is only looked up."""
    count = sum(s.numel for s in piece.specs if len(s.shape) == 2 and s.unit != "embed")
    tied = plan.model.tied and "head" in piece.units
    return count + (table_spec(plan).numel if tied else 0)


def step_flops(plan: Plan) -> float:
    """FLOPs of one whole step over all ranks, forward and backward (no optimizer)."""
    count = flops(plan)
    names = [piece.name for piece in pieces(plan)]
    each = sum(count(Instr(op=op, where=name)) for op in (Op.F, Op.B) for name in names)
    return each * plan.microbatches * plan.gradient_ranks * plan.tp

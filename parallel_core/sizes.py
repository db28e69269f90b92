"""Bytes of every value and FLOPs of every instruction of a plan's training step.

The ledger, the simulator's memory and the predicted wire traffic all read these two functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from parallel_core import context_moves
from parallel_core.activations.expert_rows import rows_routed
from parallel_core.activations.held import held_by_piece
from parallel_core.activations.saved import piece_away, piece_bytes, recompute_in
from parallel_core.data.blocks import block_of, blocks, parts_of_shard
from parallel_core.own_block import attention_flops
from parallel_core.params import ParamSpec
from parallel_core.pieces import (
    EXPERTS,
    JOIN,
    ROUTE,
    TABLE,
    Piece,
    pieces,
    table_spec,
    weights_of,
)
from parallel_core.plan import DType, Plan, Recompute
from parallel_core.program import Instr, Op, Value

INT64, FLOAT64 = 8, 8


def value_bytes(plan: Plan) -> Callable[[Value], int]:
    """Bytes of a value on its rank, by name (values.py lists the names)."""
    width = DType(plan.dtype).bytes
    every = pieces(plan)
    numbers = (*range(len(every)), TABLE)
    whole = {u: sum(s.numel for s in weights_of(plan, u)) * width for u in numbers}
    fixed = _fixed(plan, width)
    by_piece, sums = _by_piece(plan, fixed), _sums(plan, width)
    pads, shards = _cut(plan, width)

    def size(value: Value) -> int:
        if value.name in by_piece:
            return by_piece[value.name][value.at[1]]
        if value.name in sums:
            return sum(sums[value.name][u] for u in value.at or range(len(pieces(plan))))
        match value.name:
            case "ws" | "nws" | "gshard" | "gpart":
                return shards[value.at[0]]
            case "gsum" | "came" | "gall" if plan.zero:
                return shards[value.at[0]]
            case "full" | "block":
                return pads[value.at[0] if value.name == "block" else block_of(plan, value.at[0])]
            case "w" | "new" | "gsum" | "grad" | "came" | "gall":
                return whole[value.at[0]]
            case "part":
                return every[value.at[0]].specs[value.at[1]].numel * width
            case "whole_shard" | "copies_shard":
                return _parts_of_shards(plan, value) * width
        return fixed.get(value.name, 0)

    return size


def _fixed(plan: Plan, width: int) -> dict[str, int]:
    """Bytes of values that are as large in every piece."""
    tokens, table = plan.tokens_here, table_spec(plan).numel * width
    fixed = {"ids": 2 * tokens * INT64, "loss": max(width, 4)}
    fixed |= _regions(plan, tokens, width) | context_moves.sizes(plan)
    fixed |= dict.fromkeys(("tally", "total"), 2 * FLOAT64) | {"ticket": INT64}
    fixed |= dict.fromkeys(("table", "tsum", "tcame", "tall", "newtable"), table)
    if plan.pp > 1:
        fixed["tie"] = table  # a copy of its own; in one process it lies in the embedding's
    return fixed


def _by_piece(plan: Plan, fixed: Mapping[str, int]) -> dict[str, list[int]]:
    """Bytes of what each piece hands on and keeps."""
    every = pieces(plan)
    away = [piece_away(plan, piece.units) for piece in every]
    travels = ["rows" if p.routes or p.holds_experts else "act" for p in every]
    carried = [fixed[name] for name in travels]
    return {
        "act": carried,
        "dact": carried,
        "saved": [piece_bytes(plan, piece.units) for piece in every],
        "held": [held_by_piece(plan, piece.units) for piece in every],
        "host": away,
        "back": away,
    }


def _parts_of_shards(plan: Plan, value: Value) -> int:
    """Elements of a rank's shards that are parts of a sum over a model axis."""
    place, *cut = value.at
    axis = "tp" if value.name == "whole_shard" else "kv_copy"
    runs = [run for b in cut for run in parts_of_shard(plan, b, place, axis)]
    return sum(stop - start for start, stop in runs)


def _regions(plan: Plan, tokens: int, width: int) -> dict[str, int]:
    """Activations between the units, and what tensor parallelism's messages hand over."""
    whole = tokens * plan.model.hidden * width
    sizes = {"region": whole, "row": tokens * max(width, 4)}
    sizes |= dict.fromkeys(("cutregion", "again"), whole // plan.tp)
    sizes |= dict.fromkeys(("act", "dact"), whole // plan.tp if plan.sp else whole)
    if plan.model.experts:
        sizes |= _routed(plan, sizes["act"], width)
    return sizes


def _sums(plan: Plan, width: int) -> dict[str, list[int]]:
    """Bytes of each piece's part of a sum over several: of its gradients that are parts of a sum
    over a model axis, of its routers' loads."""
    found = {
        name: [
            *(sum(s.numel for s in p.specs if axis in s.partial) * width for p in pieces(plan)),
            0,
        ]  # the last is TABLE's, number -1: it is cut along both, and routes nothing
        for name, axis in (("whole", "tp"), ("copies", "kv_copy"))
    }
    loads = [_layers_of(piece) * plan.model.experts * INT64 for piece in pieces(plan)]
    return found | {"moved": [*loads, 0]}


def _routed(plan: Plan, act: int, width: int) -> dict[str, int]:
    """What experts' messages hand over and what goes past them, where loads are even."""
    m, rows, tokens, wide = plan.model, rows_routed(plan), plan.tokens_here, max(width, 4)
    shared = tokens * m.hidden * width if m.shared_experts else 0
    return {
        **dict.fromkeys(("rows", "drows", "hop", "dhop"), rows * m.hidden * width),
        **dict.fromkeys(("skip", "dskip"), act + rows * wide + shared),
        "counts": m.experts * INT64,
        "logits": tokens * m.experts * wide,
    }


def _layers_of(piece: Piece) -> int:
    """Layers whose routers are in a piece."""
    whole = (unit for unit in piece.units if unit.startswith("layer"))
    return sum("." not in unit or unit.endswith(ROUTE) for unit in whole)


def _cut(plan: Plan, width: int) -> tuple[list[int], dict[int, int]]:
    """ZeRO's bytes: of each padded block, and by unit of a rank's shard of its block.

    A block of several units is one message; its bytes are booked on its last unit.
    """
    cut = blocks(plan) if plan.zero else ()
    shards = {u: 0 for block in cut for u in block.units}
    shards |= {block.units[-1]: block.shard * width for block in cut}
    return [block.padded * width for block in cut], shards


def flops(plan: Plan) -> Callable[[Instr], float]:
    """Floating-point operations of a compute instruction.

    A forward spends 2 per weight of a matrix and token, plus 4·s·D a token for the two attention
    products (causal masking not discounted); a backward twice that (Kaplan et al. 2020,
    arXiv:2001.08361, section 2.1), half of it in I and half in W, but attention's all in I, and
    once more what it computes again. An expert's weight meets the rows that go to it, where loads
    are even. The optimizer is booked at 12 an element.
    """
    tokens = plan.tokens_here
    products = {piece.name: 2.0 * _products(plan, piece) for piece in pieces(plan)}
    layers = {piece.name: _layers_of(piece) for piece in pieces(plan)}
    attention = 4.0 * plan.seq * plan.model.hidden * tokens / plan.tp
    if plan.model.block:
        attention = attention_flops(plan)
    again = {piece.name: _again(plan, piece, attention) for piece in pieces(plan)}
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


def _again(plan: Plan, piece: Piece, attention: float) -> float:
    """What a backward of the piece computes a second time."""
    kinds = {unit: recompute_in(plan, unit) for unit in piece.units if not unit.endswith(JOIN)}
    whole = {unit.split(".")[0] for unit, kind in kinds.items() if kind == Recompute.FULL}
    again = (s for s in piece.specs if s.unit in whole and (plan.ep == 1 or _in_block(s)))
    cores = sum(k != Recompute.NONE for unit, k in kinds.items() if not unit.endswith(EXPERTS))
    return 2.0 * sum(_weighed(plan, s) for s in again) + cores * attention


def _in_block(spec: ParamSpec) -> bool:
    """Whether it is attention's or an expert's: what is run again where tokens travel between."""
    return spec.is_expert or ".attn." in spec.name


def _products(plan: Plan, piece: Piece) -> float:
    """Elements of the piece's matrices, each times the tokens or rows that meet it; the
    embedding's is only looked up."""
    count = sum(_weighed(plan, s) for s in piece.specs if s.unit != "embed")
    tied = plan.model.tied and "head" in piece.units
    return count + (plan.tokens_here * table_spec(plan).numel if tied else 0)


def _weighed(plan: Plan, spec: ParamSpec) -> float:
    """The same of one parameter; none where it is no matrix."""
    if spec.is_expert:
        return rows_routed(plan) * spec.numel / spec.shape[0]
    return plan.tokens_here * spec.numel if len(spec.shape) == 2 else 0


def step_flops(plan: Plan) -> float:
    """FLOPs of one whole step over all ranks, forward and backward (no optimizer)."""
    count = flops(plan)
    names = [piece.name for piece in pieces(plan)]
    each = sum(count(Instr(op=op, where=name)) for op in (Op.F, Op.B) for name in names)
    return each * plan.microbatches * plan.gradient_ranks * plan.tp

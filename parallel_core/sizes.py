"""Bytes of every value and FLOPs of every instruction of a plan's training step.

The ledger, the simulator's memory and the predicted wire traffic all read these two functions.
"""

from __future__ import annotations

from collections.abc import Callable

from parallel_core.activations.saved import saved_bytes
from parallel_core.data.step import specs_by_unit
from parallel_core.params import units
from parallel_core.plan import DType, Plan
from parallel_core.program import Instr, Op, Value

INT64 = 8


def value_bytes(plan: Plan) -> Callable[[Value], int]:
    """Bytes of a value on its rank, by name (values.py lists the names)."""
    width = DType(plan.dtype).bytes
    specs = specs_by_unit(plan)
    unit = [sum(s.numel for s in unit_specs) * width for unit_specs in specs]
    tokens = plan.rows_per_microbatch * plan.seq
    kept = [saved_bytes(plan, name) for name in units(plan.model)]
    loss = max(width, 4)

    def size(value: Value) -> int:
        match value.name:
            case "w" | "new" | "gsum":
                return unit[value.at[0]]
            case "grad":
                return unit[value.at[0]]
            case "part":
                return specs[value.at[0]][value.at[1]].numel * width
            case "act" | "dact":
                return tokens * plan.model.hidden * width
            case "saved":
                return kept[value.at[1]]
            case "ids":
                return 2 * tokens * INT64
            case "loss":
                return loss
        return 0

    return size


def flops(plan: Plan) -> Callable[[Instr], float]:
    """Floating-point operations of a compute instruction.

    A forward spends 2 per weight of a matrix and token, plus 4·s·D a token for the two attention
    products (causal masking not discounted); a backward twice that (Kaplan et al. 2020,
    arXiv:2001.08361, section 2.1). The optimizer is booked at 12 an element.
    """
    m = plan.model
    tokens = plan.rows_per_microbatch * plan.seq
    matrices: dict[str, int] = {}
    for name, specs in zip(units(m), specs_by_unit(plan), strict=True):
        matrices[name] = sum(s.numel for s in specs if len(s.shape) == 2)
    every = sum(s.numel for specs in specs_by_unit(plan) for s in specs)
    if m.tied:
        matrices["head"] += m.vocab * m.hidden
    matrices["embed"] = 0  # a look-up multiplies nothing

    def count(instr: Instr) -> float:
        if instr.op == Op.O:
            return 12.0 * every
        if instr.where not in matrices:
            return 0.0
        forward = 2.0 * matrices[instr.where] * tokens
        if instr.where.startswith("layer"):
            forward += 4.0 * plan.seq * m.hidden * tokens
        return forward * {Op.F: 1, Op.B: 2, Op.I: 1, Op.W: 1}.get(instr.op, 0)

    return count


def step_flops(plan: Plan) -> float:
    """FLOPs of one whole step over all ranks, forward and backward (no optimizer)."""
    count, m = flops(plan), plan.microbatches
    each = sum(count(Instr(op=op, where=name)) for op in (Op.F, Op.B) for name in units(plan.model))
    return each * m * plan.world_size

"""The ledger: bytes on the wire and bytes resident, predicted from a plan and counted in a run.

Both sides have one shape, so that they can be laid side by side:

    wire     {axis: {op: {"messages": [per rank], "payload_bytes": [per rank], "wire_bytes": n}}}
    memory   {"params": [per rank], "grads": [per rank], "optimizer": [per rank]}

A payload is what one rank hands over; wire bytes are what leaves all ranks together
(cost.wire_bytes). Scalars, such as the loss, are control traffic and booked apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parallel_core.cost import wire_bytes
from parallel_core.data.blocks import blocks, held_blocks
from parallel_core.pieces import copies_table, held_pieces, pieces, table_spec
from parallel_core.plan import DType, Optimizer, Plan, Server
from parallel_core.program import Instr, Op, Program, Value

Counts = Mapping[tuple[str, str], tuple[int, int]]
"""One rank's messages: (axis, op) -> (how many, payload bytes)."""

CONTROL = frozenset({"loss", "tally", "ticket", "loads"})
"""`where` of instructions that move scalars."""


def messages(instr: Instr, axis: str, size: Callable[[Value], int]) -> list[tuple[Op, str, int]]:
    """(op, axis, payload bytes) of every message of an instruction, in order."""
    if instr.inner:
        return [(m.op, m.axis, size(m.value)) for m in instr.inner]
    taken = instr.writes if instr.op == Op.RECV else instr.reads
    return [(instr.op, axis, sum(size(value) for value in taken))]


def predicted_counts(
    program: Program, size: Callable[[Value], int], steps: int, *, control: bool = False
) -> list[Counts]:
    """The messages of every rank in `steps` steps, from the program alone."""
    ranks: list[dict[tuple[str, str], tuple[int, int]]] = [{} for _ in program.ranks]
    for rank, _, instr in program:
        if not (instr.op.is_message or instr.inner) or (instr.where in CONTROL) != control:
            continue
        for op, axis, payload in messages(instr, instr.axis or "p2p", size):
            count, total = ranks[rank].get((axis, op.value), (0, 0))
            ranks[rank][axis, op.value] = (count + steps, total + payload * steps)
    return list(ranks)


def wire(counts: Iterable[Counts], degree: Callable[[str], int]) -> dict[str, dict[str, Any]]:
    """The wire half of the ledger from every rank's counts; the same for both sides."""
    ranks = list(counts)
    table: dict[str, dict[str, Any]] = {}
    for axis, op in sorted({key for rank in ranks for key in rank}):
        each = [rank.get((axis, op), (0, 0)) for rank in ranks]
        n = degree(axis)
        out = sum(wire_bytes(Op(op), payload, n) for _, payload in each)
        shares = 1 if op in (Op.SEND, Op.RECV) else n
        table.setdefault(axis, {})[op] = {
            "messages": [count for count, _ in each],
            "payload_bytes": [payload for _, payload in each],
            "wire_bytes": out // shares,  # each of the n members booked the whole group's bytes
        }
    return table


def total_wire_bytes(table: Mapping[str, Mapping[str, Any]]) -> int:
    """All bytes of a wire table, over axes, ops and ranks."""
    return sum(row["wire_bytes"] for ops in table.values() for row in ops.values())


def predicted_memory(plan: Plan, *, stepped: bool = True) -> dict[str, list[int]]:
    """Bytes of parameters, gradients and optimizer state on each rank between steps.

    AdamW keeps two float32 (or wider) moments an element, and a float32 master copy where the
    weights are bfloat16: the 2 + 2 + K of ZeRO (Rajbhandari et al. 2019, arXiv:1910.02054, 3.1).
    Before the first step (`stepped` false) there are no moments yet.
    """
    width = DType(plan.dtype).bytes
    state = 4 if plan.mixed else 0
    if plan.optimizer == Optimizer.ADAMW and stepped:
        state += 2 * (2 if plan.moments == "bfloat16" else max(width, 4))
    counts = [resident_elements(plan, rank) for rank in range(plan.world_size)]
    return {
        "params": [count[0] * width for count in counts],
        "grads": [count[1] * width for count in counts],
        "optimizer": [count[2] * state for count in counts],
    }


def resident_elements(plan: Plan, rank: int) -> tuple[int, int, int]:
    """Elements of weights, gradients and updated weights on a rank, between steps."""
    if not plan.zero:
        whole = held_elements(plan, rank)
        worker = plan.parameter_server != Server.OFF and rank < plan.dp
        return whole, whole, 0 if worker else whole  # the server alone updates
    held = [blocks(plan)[b] for b in held_blocks(plan, rank)]
    whole, own = sum(block.padded for block in held), sum(block.shard for block in held)
    return own if plan.zero == 3 else whole, whole if plan.zero == 1 else own, own


def held_elements(plan: Plan, rank: int) -> int:
    """Weights on a rank: its pieces, and where it has one its copy of a tied embedding's table."""
    own = sum(pieces(plan)[u].numel for u in held_pieces(plan, rank))
    return own + (table_spec(plan).numel if copies_table(plan, rank) else 0)


def peak_state_bytes(memory: Mapping[str, list[int]]) -> int:
    """params + grads + optimizer on the fullest rank."""
    return max(map(sum, zip(*memory.values(), strict=True)))

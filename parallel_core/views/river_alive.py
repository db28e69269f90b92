"""What a rank holds at each moment of a step, down to the tensors that a forward keeps.

    stays      weights, gradients, optimizer state, as the ledger predicts them
    kept       saved[mb,u]: what unit u keeps of microbatch mb, block by block (saved.py)
    away       host[mb,u]: the same in host memory; back[mb,u]: fetched again
    again      what a backward computes a second time, for as long as it runs

outline.py counts the same bytes without names; a test holds the two equal at every moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parallel_core.activations.held import held_rows
from parallel_core.activations.saved import (
    INPUT,
    again_bytes,
    offloaded_bytes,
    saved_bytes,
    saved_rows,
)
from parallel_core.ledger import predicted_memory
from parallel_core.outline import STATE
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program, Value
from parallel_core.trace import Trace
from parallel_core.views.river_moments import events
from parallel_core.views.shards_alive import gone, made

HOST = "host"
"""The kind that does not lie on the device."""

STAYS = {
    "params": ("its shards of the weights", "the weights, whole"),
    "grads": ("its shards of the gradients", "the gradients, whole"),
    "optimizer": ("the optimizer state of its shards", "the optimizer state, whole"),
}
"""What stays all the time, where it is cut into shards and where it is whole."""

CUT_FROM = {"params": 3, "grads": 2, "optimizer": 1}
"""The first ZeRO stage that cuts a kind into shards."""


@dataclass(frozen=True)
class Part:
    """A tensor, or a few of one block, that exists: kind, whose it is, what it is, its bytes.

    `unit` is "" for what belongs to no unit alone.
    """

    kind: str
    unit: str
    mb: int | None
    words: str
    size: int


def existing(plan: Plan, program: Program, trace: Trace, *, rank: int, at: int) -> list[Part]:
    """Everything that exists while instruction `at` runs, activations block by block."""
    instrs, alive = program.ranks[rank], list[Part]()
    for span, over in events(trace, rank):
        for part in _passing(plan, instrs[span.index], over=over):
            (alive.remove if over else alive.append)(part)
        if span.index == at and not over:
            break
    return [*_stays(plan, rank), *alive]


def _stays(plan: Plan, rank: int) -> Iterator[Part]:
    sizes = predicted_memory(plan)
    for kind in STATE:
        whole = plan.zero < CUT_FROM[kind]
        yield Part(kind, "", None, STAYS[kind][whole], sizes[kind][rank])


def _passing(plan: Plan, instr: Instr, *, over: bool) -> Iterator[Part]:
    """What comes with the begin of an instruction, or goes with its end."""
    for tensor in (gone if over else made)(plan, instr):
        if tensor.kind in STATE:
            yield Part(tensor.kind, "", None, tensor.words, tensor.size)
    for value in instr.frees if over else instr.writes:
        yield from _kept(plan, value)
    if instr.op in (Op.B, Op.I):
        yield from _again(plan, instr)


def _again(plan: Plan, instr: Instr) -> Iterator[Part]:
    piece = next((p for p in pieces(plan) if p.name == instr.where), None)
    size = max((again_bytes(plan, unit) for unit in piece.units), default=0) if piece else 0
    if size:
        words = "computed again, beyond what is used and gone by then"
        yield Part("activations", instr.where, instr.mb, words, size)


def _kept(plan: Plan, value: Value) -> Iterator[Part]:
    """The blocks of a value that holds activations."""
    if value.name not in ("saved", "back", HOST, "held"):
        return
    mb, u = value.at
    kind = HOST if value.name == HOST else "activations"
    for unit in pieces(plan)[u].units:
        rows = held_rows(plan, unit) if value.name == "held" else saved_rows(plan, unit)
        if value.name in ("back", HOST) and offloaded_bytes(plan, unit) < saved_bytes(plan, unit):
            rows = {name: size for name, size in rows.items() if name != INPUT}  # not taken along
        yield from (Part(kind, unit, mb, words, size) for words, size in rows.items() if size)


def by_owner(parts: Sequence[Part]) -> list[Part]:
    """Parts of one kind, unit and microbatch as one, in order of size."""
    sums: dict[tuple[str, str, int | None], list[Part]] = {}
    for part in parts:
        sums.setdefault((part.kind, part.unit, part.mb), []).append(part)
    whole = [
        Part(kind, unit, mb, _together(group), sum(part.size for part in group))
        for (kind, unit, mb), group in sums.items()
    ]
    return sorted(whole, key=lambda part: -part.size)


def _together(group: Sequence[Part]) -> str:
    """Its one name, or how many blocks they are and the largest."""
    if len(group) == 1:
        return group[0].words
    largest = max(group, key=lambda part: part.size)
    return f"{len(group)} blocks, the largest: {largest.words}"

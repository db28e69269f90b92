"""What an instruction does to memory: what it makes at its start and lets go at its end, by kind.

Values with memory of their own are followed: `full`, `gpart`, from stage 2 on `grad` and `tie`, and
what forwards keep (`saved`, `held`, `back`, `host`); and what a backward computes again, while it
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from parallel_core.activations.expert_rows import LoadOf
from parallel_core.activations.held import held_by_piece
from parallel_core.activations.saved import again_bytes, load_of, piece_away, piece_bytes
from parallel_core.data.blocks import blocks
from parallel_core.pieces import pieces
from parallel_core.plan import DType, Plan
from parallel_core.program import Instr, Op, Value

Routed = Callable[[int, int], LoadOf]
"""(rank, step) -> the loads that its routers made; without it loads are taken to be even."""


@dataclass(frozen=True)
class Effect:
    """What an instruction makes at its start and lets go at its end, bytes by kind."""

    made: dict[str, int] = field(default_factory=dict)
    freed: dict[str, int] = field(default_factory=dict)

    def net(self, kind: str) -> int:
        """By how much the instruction moves a kind when it is over."""
        return self.made.get(kind, 0) - self.freed.get(kind, 0)


def effects(plan: Plan, loads: LoadOf | None = None) -> Callable[[Instr], Effect]:
    """What each instruction of a plan's program does to memory, its first update left aside.

    Where a plan has experts, `loads` are those of one rank and step.
    """
    width = DType(plan.dtype).bytes
    kept, again = _kept(plan, loads), _again(plan, loads)
    cut = {block.units[-1]: block for block in blocks(plan)} if plan.zero else {}
    pads = {u: block.padded * width for u, block in cut.items()}
    shards = {u: block.shard * width for u, block in cut.items()}

    def own(value: Value) -> tuple[str, int]:
        """Kind and bytes of a value that has memory of its own, else no bytes."""
        u = value.at[0] if value.at else 0
        match value.name:
            case "full":
                return "params", pads.get(u, 0)
            case "gpart":
                return "grads", shards.get(u, 0)
            case "grad" if plan.zero >= 2:
                return "grads", pads.get(u, 0)
            case "tie" if plan.zero >= 2:
                return "grads", pads[0]  # a block of the embedding's
            case _:
                return kept(value)
        return "params", 0

    def effect(instr: Instr) -> Effect:
        takes_over = {"tie", "grad"} if any(r.name == "tie" for r in instr.reads) else set()
        made = _sum(own(value) for value in instr.writes if value.name not in takes_over)
        freed = _sum(own(value) for value in instr.frees if value.name not in takes_over)
        more = again(instr) if instr.op in (Op.B, Op.I) else 0
        for change in (made, freed) if more else ():
            change["activations"] = change.get("activations", 0) + more
        return Effect(made, freed)

    return effect


def _kept(plan: Plan, loads: LoadOf | None) -> Callable[[Value], tuple[str, int]]:
    """Kind and bytes of what forwards keep, on the device or on the host."""
    every = pieces(plan)
    tables = {
        "saved": ("activations", piece_bytes),
        "held": ("activations", held_by_piece),
        "back": ("activations", piece_away),
        "host": ("host", piece_away),
    }

    @cache
    def size(name: str, u: int, mb: int) -> int:
        return tables[name][1](plan, every[u].units, loads, mb)

    def kept(value: Value) -> tuple[str, int]:
        if value.name not in tables:
            return "params", 0
        mb, u = value.at
        return tables[value.name][0], size(value.name, u, mb if loads else 0)

    return kept


def _again(plan: Plan, loads: LoadOf | None) -> Callable[[Instr], int]:
    """Bytes that a backward computes again while it runs."""
    units = {piece.name: piece.units for piece in pieces(plan)}

    @cache
    def size(where: str, mb: int) -> int:
        each = ((unit, load_of(plan, unit, loads, mb)) for unit in units.get(where, ()))
        return max((again_bytes(plan, unit, load) for unit, load in each), default=0)

    return lambda instr: size(instr.where, instr.mb or 0 if loads else 0)


def _sum(parts: Iterator[tuple[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for kind, size in parts:
        total[kind] = total.get(kind, 0) + size
    return total

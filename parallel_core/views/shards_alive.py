"""Which tensors of a rank's training state come and go within a step, by name and kind.

    gathered    full[u,t]: a unit's whole weights, from its gather to the end of its use
    made        grad[u,mb], tie[mb]: a unit's whole gradient, until it is scattered
    landing     the sum of a reduce-scatter: gpart[u,mb], or gshard[u,mb] while the message runs

What stays, and all that exists at a moment: river_alive.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from parallel_core import values as v
from parallel_core.data.blocks import block_of
from parallel_core.params import units
from parallel_core.plan import Plan
from parallel_core.program import Instr, Program, Value
from parallel_core.sizes import value_bytes
from parallel_core.trace import Trace
from parallel_core.views.river_moments import moments


@dataclass(frozen=True)
class Tensor:
    """A tensor that exists: its kind (a key of palette.TENSORS), what it is, its bytes."""

    kind: str
    words: str
    size: int


def made(plan: Plan, instr: Instr) -> list[Tensor]:
    """What has memory of its own and exists from the begin of the instruction."""
    return list(_passing(plan, instr, instr.writes))


def gone(plan: Plan, instr: Instr) -> list[Tensor]:
    """What had, and is let go at its end."""
    return list(_passing(plan, instr, instr.frees))


def _passing(plan: Plan, instr: Instr, values: Iterable[Value]) -> Iterator[Tensor]:
    """Those of the values that have memory of their own for a part of the step.

    The backward that takes in a tied embedding's gradient goes on in the same block, and a sum of
    one microbatch of several lands in a buffer of its own before it is added.
    """
    takes_over = any(value.name == "tie" for value in instr.reads)
    whole = {"full": ("params", "{} gathered whole")}
    if plan.zero >= 2:
        whole |= dict.fromkeys(("grad", "tie"), ("grads", "{}'s whole gradient"))
    names = units(plan.model)
    for value in values:
        unit = value.at[0] if value.at and value.name != "tie" else 0
        if value.name in whole and not (takes_over and value.name in ("grad", "tie")):
            kind, words = whole[value.name]
            size = value_bytes(plan)(v.block(block_of(plan, unit)))
            yield Tensor(kind, words.format(names[unit]), size)
        elif value.name == "saved":
            yield Tensor("activations", f"what {names[value.at[1]]} kept", value_bytes(plan)(value))
        elif value.name == "gpart":
            size = value_bytes(plan)(value)
            if size:  # a block of several units is booked on its first
                yield Tensor("grads", f"{names[unit]}'s summed shard, landing", size)


def instruction_rows(plan: Plan, program: Program, trace: Trace, rank: int) -> list[dict[str, str]]:
    """The rank's step as a table: gather, use, free, scatter, and the bytes while each runs."""
    instrs = program.ranks[rank]
    return [
        {
            "instruction": f"{moment.at}  {moment.label}",
            "makes (+), frees (−)": "; ".join(_deeds(plan, instrs[moment.at])),
            "bytes": f"{moment.total:,}",
        }
        for moment in moments(plan, program, trace, rank)
        if not moment.over
    ]


def _deeds(plan: Plan, instr: Instr) -> Iterator[str]:
    yield from (f"+ {tensor.words}" for tensor in made(plan, instr))
    yield from (f"− {tensor.words}" for tensor in gone(plan, instr))

"""What a plan needs of memory, predicted without a process, as JSON-ready figures.

state         weights, gradients and optimizer state that stay on a rank (ledger.py)
activations   what forwards keep for their backwards: of one microbatch, unit by unit, by
              formula (activations/saved.py), and the most at any moment of a step (peak.py)
classic       the count of the textbooks beside it, every difference named (classic.py)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any

from parallel_core.activations.classic import classic_rows, differences
from parallel_core.activations.formula import Formula, block_of, classic, laid_out, sizes_of
from parallel_core.activations.offload import leaving
from parallel_core.activations.saved import (
    again_bytes,
    piece_away,
    piece_bytes,
    saved_bytes,
    saved_rows,
)
from parallel_core.cases import program_of
from parallel_core.choices import Recompute, Server
from parallel_core.fields import PlanError
from parallel_core.ledger import predicted_memory
from parallel_core.params import param_specs, units
from parallel_core.peak import predicted_peak
from parallel_core.pieces import held_pieces, pieces
from parallel_core.plan import DType, Plan
from parallel_core.program import Instr
from parallel_core.walls.sharding import NEVER_COUNTED

KINDS = ("params", "grads", "optimizer", "activations")

ENOUGH = 4
"""Microbatches after which a step without a pipeline holds no more than before."""

NOT_COUNTED = (
    "activations on their way from one unit to the next, and their gradients",
    "what a unit makes and drops again while it runs, the gradient of the logits above all",
    *NEVER_COUNTED,
)
"""What the forecast leaves out; a device that is filled to the brim by the rest is too small."""


def forecast(plan: Plan, room: float) -> dict[str, Any]:
    """Bytes on every kind of rank beside a device of `room` bytes, and of every kind of unit.

    PlanError for an asynchronous pipeline, whose old versions of the weights are not followed.
    """
    if plan.asynchronous:
        rule = "keeps old versions of the weights, which are not predicted"
        raise PlanError("schedule", plan.schedule, rule, "1f1b")
    return {
        "plan": plan.flat(),
        "layout": plan.layout,
        "world_size": plan.world_size,
        "params": sum(spec.numel for spec in param_specs(plan)),
        "ranks": [row | _beside(row["total_at_peak"], room) for row in _ranks(plan)],
        "units": {unit: _unit(plan, unit, times) for unit, times in _kinds(plan).items()},
        "not_counted": list(NOT_COUNTED),
    }


def _beside(size: int, room: float) -> dict[str, Any]:
    return {"fits": size <= room, "share_of_device": size / room}


def stand_in(plan: Plan) -> Plan:
    """A plan of fewer ranks and microbatches, each rank of which holds what one of `plan` does."""
    whole = not plan.zero and plan.parameter_server == Server.OFF
    dp = plan.ep // gcd(plan.ep, plan.cp) if whole else plan.dp  # experts are shared out over it
    m = plan.microbatches if plan.pp > 1 else min(plan.microbatches, ENOUGH)
    return plan.but(dp=dp, microbatches=m, global_batch=plan.rows_per_microbatch * dp * m)


def _ranks(plan: Plan) -> Iterator[dict[str, Any]]:
    """A row for each kind of rank, in rank order."""
    small = stand_in(plan)
    program = program_of(small)
    resident, peak = predicted_memory(small), predicted_peak(small, program)
    named: dict[str, list[int]] = {}
    for rank in range(small.world_size):
        named.setdefault(_who(small, rank), []).append(rank)
    for who, (first, *others) in named.items():
        mine = [pieces(small)[u].units for u in held_pieces(small, first)]
        yield {
            "who": who,
            "ranks": (1 + len(others)) * plan.world_size // small.world_size,
            "resident": {kind: sizes[first] for kind, sizes in resident.items()},
            "activations_per_microbatch": (
                0 if who == SERVER else sum(piece_bytes(plan, units) for units in mine)
            ),
            "microbatches_in_flight": _in_flight(plan, first, who),
            "host_per_microbatch": _host(plan, program.ranks[first]),
            "peak": {kind: peak[kind][first] for kind in KINDS},
            "total_at_peak": peak["total"][first],
        }


def _in_flight(plan: Plan, rank: int, who: str) -> float:
    """Microbatches whose activations a rank holds at most, a stage of several counted in part."""
    if plan.pp == 1:
        return float(who != SERVER)
    place = stand_in(plan).mesh.coordinate(rank)["pp"]
    return plan.pipeline.in_flight[place] * plan.pp / plan.pipeline.stages


SERVER = "server"


def _who(plan: Plan, rank: int) -> str:
    if plan.parameter_server != Server.OFF:
        return SERVER if rank == plan.dp else "each worker"
    if plan.pp > 1:
        return f"pipeline rank {plan.mesh.coordinate(rank)['pp']}"
    return "each rank"


def _host(plan: Plan, instrs: Sequence[Instr]) -> int:
    """What offloading takes to the host of one microbatch, on one rank."""
    every = {u for _, u in leaving(instrs)}
    return sum(piece_away(plan, pieces(plan)[u].units) for u in every)


def _kinds(plan: Plan) -> dict[str, int]:
    """The first unit of every kind, and how many there are like it."""
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    for unit in units(plan.model):
        kind = f"layer, {plan.recompute_in(unit)}" if unit.startswith("layer") else unit
        name = first.setdefault(kind, unit)
        count[name] = count.get(name, 0) + 1
    return count


def _unit(plan: Plan, unit: str, times: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "units": times,
        "recompute": plan.recompute_in(unit),
        "bytes": saved_bytes(plan, unit),
        "rows": saved_rows(plan, unit),
        "again_bytes": 0,
    }
    if not unit.startswith("layer"):
        return found
    if plan.recompute_in(unit) != Recompute.NONE:
        found["again_bytes"] = again_bytes(plan, unit)
    if plan.model.block:  # tried out, not counted: it has no rows that a textbook could name
        return found
    textbook = classic(DType(plan.dtype).bytes)
    if not plan.model.experts:  # of what depends on routing there is no formula in these letters
        found["formula"] = _evaluated(plan, laid_out(plan, block_of(plan), unit))
    return found | {
        "classic": {
            **_evaluated(plan, laid_out(plan, textbook, unit)),
            "rows": classic_rows(plan, unit),
            "differences": [
                {"row": d.row, "bytes": d.bytes, "why": d.why} for d in differences(plan, unit)
            ],
        },
    }


def _evaluated(plan: Plan, formula: Formula) -> dict[str, Any]:
    return {"text": formula.text, "bytes": formula.bytes(**sizes_of(plan))}

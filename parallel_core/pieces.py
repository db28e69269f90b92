"""What one F or B instruction runs: a unit, a stage of a pipeline, or a part between two journeys.

A *piece* is what one F or B instruction runs: a unit, or in a pipeline a stage, which is several.
Under expert parallelism tokens travel in the middle of a layer, so a layer comes in three *parts*
and pieces end where tokens leave:

    layer0.route     attention, then where each token goes
    layer0.experts   the experts that are here
    layer0.join      what came back, added up: run where it is needed, at the start of what follows

    embed | layer0 (route) | layer0.experts | layer1 (join, route) | layer1.experts | head (join)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from parallel_core import values as v
from parallel_core.params import ParamSpec, local, param_specs, units
from parallel_core.pipeline.lower import stage_name
from parallel_core.pipeline.stages import split
from parallel_core.plan import Plan


@dataclass(frozen=True)
class Piece:
    """What one F or B runs: its name in instructions, its units (or parts of them), their
    parameters. `axis` is the mesh axis over which its gradient is summed, "" where one rank has it;
    `stage` its stage in a pipeline."""

    name: str
    units: tuple[str, ...]
    specs: tuple[ParamSpec, ...]
    axis: str = "dp"
    stage: int = 0

    @property
    def numel(self) -> int:
        """Elements of its parameters."""
        return sum(spec.numel for spec in self.specs)

    @property
    def holds_experts(self) -> bool:
        """Whether it is what tokens travel to."""
        return self.units[0].endswith(EXPERTS)

    @property
    def routes(self) -> bool:
        """Whether tokens leave at its end for their experts."""
        return self.units[-1].endswith(ROUTE)

    @property
    def joins(self) -> bool:
        """Whether it begins with what experts have made."""
        return self.units[0].endswith(JOIN)


ROUTE, EXPERTS, JOIN = ".route", ".experts", ".join"
"""Ends of the names of a layer's parts."""


@lru_cache(maxsize=256)
def pieces(plan: Plan) -> tuple[Piece, ...]:
    """The pieces of a plan in forward order: its units, or the stages of its pipeline; where
    experts are shared out, cut where tokens leave.

    Their parameters have the shapes that a rank holds.
    """
    found: list[Piece] = []
    specs = [local(plan, spec) for spec in param_specs(plan)]
    for stage, (name, run) in enumerate(_runs(plan).items()):
        for j, units_here in enumerate(_parted(run) if plan.ep > 1 else [run]):
            found.append(_piece(plan, name, j, units_here, stage, specs))
    return tuple(found)


def _piece(
    plan: Plan, name: str, j: int, run: tuple[str, ...], stage: int, specs: list[ParamSpec]
) -> Piece:
    mine = tuple(spec for spec in specs if _part_of(plan, spec) in run)
    experts = run[0].endswith(EXPERTS)
    if plan.pp > 1:
        called = f"{name}.{j}" if plan.ep > 1 else name
    elif plan.ep > 1:
        called = run[0] if experts else run[-1].removesuffix(ROUTE)
    else:
        called = name
    return Piece(called, run, mine, plan.expert_axis if experts else "dp", stage)


def _part_of(plan: Plan, spec: ParamSpec) -> str:
    if plan.ep == 1 or not spec.unit.startswith("layer"):
        return spec.unit
    return spec.unit + (EXPERTS if spec.is_expert else ROUTE)


def _runs(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Units by stage, or where there is no pipeline each by itself."""
    every = units(plan.model)
    if plan.pp == 1:
        if plan.ep > 1:
            return {every[0]: every[:1], "": every[1:]}
        return {unit: (unit,) for unit in every}
    runs: dict[str, tuple[str, ...]] = {}
    at, counts = 1, split(plan.model.layers, plan.pipeline.stages, plan.stage_layers)
    for s, count in enumerate(counts):
        first = every[:1] if s == 0 else ()
        last = every[-1:] if s == len(counts) - 1 else ()
        runs[stage_name(s)] = (*first, *every[at : at + count], *last)
        at += count
    return runs


def _parted(run: tuple[str, ...]) -> list[tuple[str, ...]]:
    """A run of units, cut behind every ROUTE and EXPERTS."""
    found: list[tuple[str, ...]] = []
    filling: list[str] = []
    for unit in run:
        if not unit.startswith("layer"):
            filling.append(unit)
            continue
        found += [(*filling, unit + ROUTE), (unit + EXPERTS,)]
        filling = [unit + JOIN]
    return [*found, tuple(filling)] if filling else found


def stage_pieces(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """The numbers of the pieces of each stage of a pipeline."""
    every = pieces(plan)
    return tuple(
        tuple(u for u, piece in enumerate(every) if piece.stage == s)
        for s in range(every[-1].stage + 1)
    )


def stage_sums(plan: Plan, s: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """What of a stage's gradient is summed, or travels, together: (name, axis, pieces)."""
    every, found = pieces(plan), []
    for ends, experts in (("", False), (EXPERTS, True)):
        mine = [u for u in stage_pieces(plan)[s] if every[u].holds_experts == experts]
        if any(every[u].specs for u in mine):
            found.append((stage_name(s) + ends, every[mine[0]].axis, tuple(mine)))
    return found


def held_pieces(plan: Plan, rank: int) -> tuple[int, ...]:
    """The numbers of the pieces whose weights `rank` holds."""
    if plan.pp == 1:
        return tuple(range(len(pieces(plan))))
    parts = stage_pieces(plan)
    return tuple(u for s in plan.pipeline.held[plan.mesh.coordinate(rank)["pp"]] for u in parts[s])


TABLE = v.TABLE_PIECE
"""The number of a tied embedding's table where it is no part of a piece: a copy of it, or, where a
pipeline's state is shared out, the table itself."""


def uses_table(plan: Plan, u: int) -> bool:
    """Whether piece u looks up in a tied table or multiplies by it: the first and the last do."""
    return plan.model.tied and u in (0, len(pieces(plan)) - 1)


def parts_table(plan: Plan) -> bool:
    """Whether a tied table is sharded by itself: both ends of a pipeline hold it, and what they
    exchange must be cut alike."""
    return bool(plan.zero) and plan.pp > 1 and plan.model.tied


def weights_of(plan: Plan, u: int) -> tuple[ParamSpec, ...]:
    """The parameters that are summed, cut and updated as piece u, or as TABLE."""
    if u == TABLE:
        return (table_spec(plan),)
    specs = pieces(plan)[u].specs
    return specs[1:] if u == 0 and parts_table(plan) else specs


def copies_table(plan: Plan, rank: int) -> bool:
    """Whether a rank runs a tied head without the embedding, and so keeps a copy of its table."""
    mine = held_pieces(plan, rank)
    return plan.model.tied and 0 not in mine and len(pieces(plan)) - 1 in mine


def table_spec(plan: Plan) -> ParamSpec:
    """The embedding's table."""
    return pieces(plan)[0].specs[0]

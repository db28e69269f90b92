"""One model out of what its ranks hold apart: what counts once, what is summed, what is whole.

A copy of the model lies on the ranks of one group along the plan's `model_axis`: slices of its
matrices (tp), some of its experts (ep), some of its stages (pp). What several of them hold is
counted on the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from parallel_core.comm import Comm
from parallel_core.flat import Flat
from parallel_core.params import ParamSpec, cuts, param_specs
from parallel_core.pieces import TABLE, held_pieces, pieces, uses_table
from parallel_core.plan import Plan
from parallel_core.program import Instr


def first_copy(plan: Plan) -> tuple[int, ...]:
    """The ranks that hold the first copy of the model, rank 0 among them."""
    return plan.mesh.group(0, plan.model_axis) if plan.model_axis else (0,)


def counted(plan: Plan, flat: Flat, rank: int) -> list[tuple[int, int]]:
    """The runs of a rank's flat buffer that it counts in a norm over the model: of what several
    ranks hold, the first counts it."""
    place = plan.mesh.coordinate(rank)
    before = held_before(plan, place.get("pp", 0))
    runs: list[tuple[int, int]] = []
    for u, specs in flat.specs.items():
        at = flat.bounds[u][0]
        for spec in specs:
            start, at = at, at + spec.numel
            if u == TABLE or u in before or not is_first(plan, spec, place):
                continue
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], at)
            else:
                runs.append((start, at))
    return runs


def held_before(plan: Plan, here: int) -> set[int]:
    """The pieces that ranks before this one in its pipeline hold as well."""
    if plan.pp == 1:
        return set()
    found = {u for r in range(here) for u in held_pieces(plan, plan.mesh.rank(pp=r))}
    return found | {TABLE} if any(uses_table(plan, u) for u in found) else found


def is_first(plan: Plan, spec: ParamSpec, place: Mapping[str, int]) -> bool:
    """Whether the rank at `place` is the first of a model's with the same of a parameter."""
    cut = {axis for _, axis in spec.cut}
    if plan.ep > 1 and "ep" not in cut and place["ep"]:
        return False
    if "tp" not in cut:
        return not place.get("tp", 0)
    return "kv_copy" not in spec.partial or place["tp"] % plan.kv_copies == 0


def parts_over(flat: Flat, axis: str) -> list[Tensor]:
    """The gradients that are parts of a sum over a model axis, of every piece."""
    return [
        view
        for u, specs in flat.specs.items()
        for spec, view in zip(specs, flat.views[u], strict=True)
        if axis in spec.partial
    ]


def sum_together(parts: Sequence[Tensor], like: Tensor, comm: Comm, instr: Instr) -> Sequence[Any]:
    """x+ax -> x of tensors that lie apart, in one message, be it empty; in the type of `like`."""
    assert instr.axis is not None
    joined = torch.cat([like.new_empty(0), *(part.flatten() for part in parts)])
    comm.all_reduce(joined, instr.axis, name=instr.where)
    for part, summed in zip(parts, torch.split(joined, [p.numel() for p in parts]), strict=True):
        part.copy_(summed.view_as(part))
    return [joined.nbytes, *[None] * len(instr.writes)]


def collect(plan: Plan, rank: int, comm: Comm | None, mine: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors by name on rank 0, from the ranks of the first copy of the model, one message
    each; a rank that has nothing yet gives nothing."""
    if not mine or comm is None:
        return mine
    whole: dict[str, Tensor] = {}
    every = {spec.name: spec for spec in param_specs(plan)}
    for source in first_copy(plan):
        specs = _specs_on(plan, source)
        if not specs:
            continue
        if rank == source:
            flat = torch.cat([mine[spec.name].flatten() for spec in specs])
            if rank:
                comm.hand_over(flat, 0)
        if rank:
            continue
        if source:
            like = next(iter(mine.values()))
            flat = comm.take_over(like.new_empty(sum(spec.numel for spec in specs)), source)
        for spec, part in zip(specs, torch.split(flat, [s.numel for s in specs]), strict=True):
            parts = cuts(plan, every[spec.name], plan.mesh.coordinate(source))
            _put(whole, every[spec.name], part.view(spec.shape), parts)
    return {name: whole[name] for name in every if name in whole}


def _specs_on(plan: Plan, rank: int) -> list[ParamSpec]:
    """The parameters that a rank gives, in its own shapes: those that it is the first to hold."""
    place = plan.mesh.coordinate(rank)
    specs = (spec for u in held_pieces(plan, rank) for spec in pieces(plan)[u].specs)
    return [spec for spec in specs if is_first(plan, spec, place)]


def _put(whole: dict[str, Tensor], spec: ParamSpec, part: Tensor, parts: Any) -> None:
    """A rank's part of a parameter into the whole, padding left out."""
    if spec.name not in whole:
        whole[spec.name] = part.new_empty(spec.shape)
    there = whole[spec.name]
    for cut in parts:
        there = there.narrow(cut.dim, min(cut.start, cut.end), cut.real)
        part = part.narrow(cut.dim, 0, cut.real)
    there.copy_(part)

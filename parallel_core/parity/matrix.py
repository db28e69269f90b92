"""The parity matrix: which layouts there are, which are refused, and why.

    alone   every way by itself
    pairs   every two ways of different kinds
    deep    every three, four and five kinds once, their ways in turn

A layout that needs more ranks than asked for is listed as such; so is one that the plan refuses,
with the plan's own sentence. Where only the model stands in the way (a tied embedding, say), the
model changes instead, and the cell says so. All of it may be asked of a block of the reader's own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from parallel_core.choices import Server
from parallel_core.fields import PlanError
from parallel_core.fields import parse as parsed
from parallel_core.model_shape import DType, ModelShape
from parallel_core.parity.axes import ACCUMULATE, EXPERTS, KINDS, Way, by_kind, ways
from parallel_core.pipeline import SCHEDULES
from parallel_core.plan import Plan, flat_fields

MODEL: Mapping[str, Any] = {
    **{"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "vocab": 97, "tied": True},
    **{"seq": 16, "dtype": "float64"},
}
"""The model of every cell: small, with two heads a key, and words that no power of two divides."""

SEQUENCES = 8
"""Sequences of a step at least; more where ranks and microbatches ask for it."""

ALONE = 4
"""Ranks of a way that runs by itself, where there are so many."""

DEEP = (3, 4, 5)
RANKED = frozenset({"dp", "tp", "pp", "cp"})
"""Kinds that each at least double the ranks."""

_STRIDE = 7  # so that neighbours in the list of deep layouts differ in every kind


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One layout of the matrix: a plan, or the reason why there is none.

    `parts` are the names of its ways, `kinds` theirs; `changed` says what of the model had to be
    other than MODEL.
    """

    parts: tuple[str, ...]
    kinds: tuple[str, ...]
    plan: Plan | None = None
    refused: str = ""
    changed: str = ""

    @property
    def name(self) -> str:
        """`zero-2 + sp + zb-h1`."""
        return " + ".join(self.parts)

    @property
    def section(self) -> str:
        """Where it is listed: alone, pairs, or how many kinds meet."""
        return {1: "alone", 2: "pairs"}.get(len(self.parts), f"{len(self.parts)} axes")

    @property
    def layout(self) -> str:
        """What `shardlab parity --layout` takes to run it again; "" where it is refused."""
        return "" if self.plan is None else text_of(self.plan)


def cells(world: int, block: str | None = None) -> tuple[Cell, ...]:
    """Every cell of the matrix on at most `world` ranks; of a reader's `block` (own_block.py)."""
    if world < 2:
        raise PlanError("world", world, "leaves nothing to split", 2)
    return (*alone(world, block), *pairs(world, block), *deep(world, block))


def alone(world: int, block: str | None = None) -> Iterator[Cell]:
    """Every way by itself, over four ranks where it has so many."""
    for way in ways():
        yield cell_of([way], world, degree=min(ALONE, world), block=block)


def pairs(world: int, block: str | None = None) -> Iterator[Cell]:
    """Every two paired ways of different kinds."""
    table = by_kind(paired=True)
    for one, other in combinations(KINDS, 2):
        for both in product(table[one], table[other]):
            yield cell_of(both, world, block=block)


def deep(world: int, block: str | None = None) -> Iterator[Cell]:
    """Every three, four and five kinds once: the next combination of ways that can be run."""
    table, turn = by_kind(paired=True), 0
    never = {k for k, each in table.items() if not any(_runs(way, block) for way in each)}
    for count in DEEP:
        for kinds in combinations(KINDS, count):
            every = list(product(*(table[kind] for kind in kinds)))
            turn += _STRIDE
            start = turn % len(every)
            found = [cell_of(every[start], world, block=block)]
            vain = 2 ** len(RANKED & {*kinds}) > world or never & {*kinds}
            for each in (*every[start + 1 :], *every[:start]):
                if found[-1].plan or vain:
                    break
                found.append(cell_of(each, world, block=block))
            yield found[-1] if found[-1].plan else found[0]


def _runs(way: Way, block: str | None) -> bool:
    """Whether a way runs by itself, on as many ranks as it takes."""
    return cell_of([way], sys.maxsize, block=block).plan is not None


def cell_of(parts: Sequence[Way], world: int, *, degree: int = 2, block: str | None = None) -> Cell:
    """The cell of these ways, each over `degree` ranks."""
    names, kinds = tuple(way.name for way in parts), tuple(way.kind for way in parts)
    flat = _with({}, block)
    for way in parts:
        flat |= way.at(degree)
    if "shard" in flat:  # a group of shards has every expert
        flat["shard"] = max(flat["shard"], flat.get("ep", 1))
    try:
        plan, changed = fitted(flat)
    except PlanError as error:
        return Cell(parts=names, kinds=kinds, refused=str(error))
    if plan.world_size > world:
        reason = f"needs {plan.world_size} ranks, of {world}"
        return Cell(parts=names, kinds=kinds, refused=reason)
    return Cell(parts=names, kinds=kinds, plan=plan, changed=changed)


def _with(flat: Mapping[str, Any], block: str | None) -> dict[str, Any]:
    return {**flat, **({} if block is None else {"block": block})}


def fitted(flat: Mapping[str, Any]) -> tuple[Plan, str]:
    """The plan of these fields on MODEL, and what of the model had to change; PlanError for what
    the layout itself makes impossible."""
    asked = {**MODEL, **(EXPERTS if _number(flat, "ep") > 1 else {}), **_sized(flat)}
    changed: dict[str, Any] = {}
    shape = ModelShape.__dataclass_fields__
    while True:
        try:
            plan = Plan.of(**asked)
        except PlanError as error:
            if error.field not in shape or error.field in changed or error.field in flat:
                raise
            changed[error.field] = asked[error.field] = error.nearest
            continue
        return plan, ", ".join(f"{name}={value}" for name, value in changed.items())


def _sized(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with as many ranks, microbatches, sequences and layers as they need."""
    made = dict(flat)
    more = made.pop(ACCUMULATE, 1)
    cp, pp, shard = (_number(made, name) for name in ("cp", "pp", "shard"))
    ranks = max(_number(made, "ep"), 2 * shard if "shard" in made else 1)
    dp = max(_number(made, "dp"), -(-ranks // cp))  # shards of HSDP need a replica
    if dp > 1:
        made["dp"] = dp
    if pp > 1 or more > 1:
        made.setdefault("microbatches", more * (2 * pp if pp > 1 else 1))
    share = dp * _number(made, "microbatches")
    made.setdefault("global_batch", -(-SEQUENCES // share) * share)
    stages = pp * _number(made, "virtual_stages", _fewest(made))
    made.setdefault("layers", max(int(MODEL["layers"]), stages - 2))
    return made


def _number(flat: Mapping[str, Any], name: str, usual: int = 1) -> int:
    """A field that may have been typed, or `usual`; PlanError for what is no number of its kind."""
    found = parsed(flat_fields()[name], flat.get(name, usual))
    return usual if found is None else int(found)


def _fewest(flat: Mapping[str, Any]) -> int:
    schedule = SCHEDULES.get(str(flat.get("schedule", "1f1b")))
    return schedule.fewest if schedule else 1


def parse(text: str, block: str | None = None) -> Cell:
    """The cell of `dp=2,tp=2,schedule=zb-h1`: any fields of a plan, on MODEL.

    A word without "=" goes on with the value before it, as in `stage_layers=2,1,1`.
    """
    flat, name = _with({}, block), ""
    for word in filter(None, (word.strip() for word in text.split(","))):
        before, equals, value = (part.strip() for part in word.partition("="))
        if not equals and not name:
            raise PlanError("layout", repr(word), "must be name=value", "dp=2,tp=2")
        name, value = (before, value) if equals else (name, f"{flat[name]},{word}")
        flat[name] = None if value == str(None) else value
    if not name:
        raise PlanError("layout", repr(text), "names no field of a plan", "dp=2,tp=2")
    plan, changed = fitted(flat)
    return Cell(parts=(text_of(plan),), kinds=(), plan=plan, changed=changed)


def provable(plan: Plan) -> None:
    """PlanError for a plan that cannot be held against one process to float64's rounding."""
    if plan.dtype != DType.FLOAT64:
        rule = "rounds more than parity allows; `shardlab run` judges by its rounding"
        raise PlanError("dtype", plan.dtype, rule, DType.FLOAT64)
    if plan.parameter_server != Server.OFF:
        rule = "has a truth of its own, which `shardlab run` holds it against"
        raise PlanError("parameter_server", plan.parameter_server, rule, Server.OFF)


def text_of(plan: Plan) -> str:
    """The fields in which a plan differs from MODEL on one process, as `parse` reads them."""
    usual = {name: spec.default for name, spec in flat_fields().items()}
    usual |= MODEL
    usual |= EXPERTS if plan.ep > 1 else {}
    told = {k: x for k, x in plan.flat().items() if x != usual[k]}
    for name in SIZES:
        fewer = {k: x for k, x in told.items() if k != name}
        if len(fewer) < len(told) and _same(plan, fewer):
            told = fewer
    return ",".join(f"{name}={value}" for name, value in told.items())


SIZES = ("layers", "global_batch", "microbatches", "tied")
"""Fields that `fitted` fills in by itself, if nothing else is asked."""


def _same(plan: Plan, flat: Mapping[str, Any]) -> bool:
    try:
        return fitted(flat)[0] == plan
    except PlanError:
        return False


def sample(every: Sequence[Cell], count: int, seed: int = 0) -> tuple[Cell, ...]:
    """`count` cells that can run, spread evenly over the list, another choice for every seed."""
    able = [cell for cell in every if cell.plan]
    if count >= len(able):
        return tuple(able)
    return tuple(able[(i * len(able) // count + seed) % len(able)] for i in range(count))

"""What `shardlab bench cp --crossover` compares: so many key/value heads, so many new tokens.

    all tokens   |======== cached ========|== new ==|    keys and values of all, queries of the new

Pass-KV and pass-Q over the same layout: zigzag the new tokens, contiguous the cached ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.context import layout_of
from parallel_core.context.traffic import LayerShape
from parallel_core.fields import PlanError, real, validate, whole
from parallel_core.plan import DType, Plan

TARGET = "parallel_core.bench.context_crossover_ranks:sweep"
SIDES: Mapping[str, str] = {"pass-kv": "zigzag", "pass-q": "pass-q"}
"""Contender -> the method that it is."""

DEFAULTS: Mapping[str, Any] = {
    "cp": 2, "layers": 1, "hidden": 256, "heads": 8, "seq": 2048, "global_batch": 1
}  # fmt: skip
"""Sizes at which the times cross well inside the sweep; `seq` is all tokens, new and cached."""

ALONE: Mapping[str, Any] = {"dp": 1, "tp": 1, "pp": 1, "zero": 0, "cp_method": "zigzag"}
"""Fields with the one value that the sweep has."""

MOST_SHARES = 7


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How long it goes on, and how slow the wire is."""

    rounds: int = whole(6, 1, 1000, "rounds in which each side has two turns a case")
    flops_a_byte: float = real(
        512.0, 0.0, 1e6, "FLOPs while a byte is sent; 0 for the machine's wire"
    )

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class Case:
    """So many key/value heads, so many new tokens after so many cached ones."""

    kv_heads: int
    new: int
    cached: int

    @property
    def name(self) -> str:
        """How the ranks tell it."""
        return f"{self.kv_heads} {self.new}"

    @property
    def share(self) -> float:
        """New tokens among all."""
        return self.new / (self.new + self.cached)


def plan_of(**flat: Any) -> Plan:
    """The plan to sweep with: the bench's sizes, with the fields that were given; PlanError for
    one rank, and for other axes."""
    plan = Plan.of(**{**DEFAULTS, **flat})
    fields = plan.flat()
    for name, value in ALONE.items():
        if fields.get(name, value) != value:
            rule = f"must be {value}: pass-KV and pass-Q are compared alone"
            raise PlanError(name, fields[name], rule, value)
    if plan.cp < 2:
        raise PlanError("cp", plan.cp, "must be at least 2: one rank passes nothing", 2)
    unit = 2 * plan.cp
    if plan.seq % unit:
        near = max(round(plan.seq / unit), 1) * unit
        raise PlanError("seq", plan.seq, "must divide by 2 cp: nothing is padded here", near)
    return plan


def cases(plan: Plan) -> list[Case]:
    """Key/value heads: those of the plan, or all, a half, a quarter... of the heads. New tokens:
    all of them, a half, a quarter...

    >>> [case.name for case in cases(plan_of(heads=2, seq=8))]
    ['2 4', '2 8', '1 4', '1 8']
    """
    heads, unit = plan.model.heads, 2 * plan.cp
    groups = [plan.model.kv] if plan.model.kv_heads is not None else _halves(heads, 1, 4)
    return [
        Case(kv_heads=kv, new=new, cached=plan.seq - new)
        for kv in groups
        for new in reversed(_halves(plan.seq, unit, MOST_SHARES))
    ]


def _halves(whole: int, unit: int, most: int) -> list[int]:
    """`whole`, a half, a quarter... while `unit` divides them."""
    found = [whole]
    while len(found) < most and found[-1] % (2 * unit) == 0:
        found.append(found[-1] // 2)
    return found


def shape_of(plan: Plan, case: Case) -> LayerShape:
    """The layer of a case; the two methods cut it alike."""
    return LayerShape(
        layout=layout_of("zigzag", case.new, ranks=plan.cp, cached=case.cached),
        batch=plan.rows_per_microbatch,
        heads=plan.model.heads,
        kv_heads=case.kv_heads,
        head_dim=plan.model.head_dim,
        width=DType(plan.dtype).bytes,
    )


def flops(plan: Plan, case: Case) -> float:
    """Of one rank's tiles in a forward: the scores, and their product with the values."""
    shape = shape_of(plan, case)
    table = [shape.layout.tiles(0, keys) for keys in range(plan.cp)]
    pairs = sum(tile.pairs for tiles in table for tile in tiles)
    return 4.0 * shape.batch * pairs * shape.heads * shape.head_dim


def order_of(plan: Plan, chosen: Sweep) -> tuple[str, int, dict[str, Any]]:
    """Target, world size and arguments, as Pool.start and Jobs.submit take them."""
    return TARGET, plan.cp, {"plan": plan.flat(), "sweep": asdict(chosen)}

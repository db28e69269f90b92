"""Losses over many steps, by layout and element type: which coincide, and which depart.

Layouts add up the same terms in another order. In float64 that moves a loss by 1e-15 or so a step,
and hundreds of steps of training do not make it visible; in bfloat16 a weight has 8 bits, so the
order is seen soon, and so is the type itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_core.bench.circumstances import circumstances
from parallel_core.compare.layouts import Contender
from parallel_core.fields import validate, whole
from parallel_core.launch import Pool
from parallel_core.plan import Plan
from parallel_core.request import Request

USUAL = (
    "dtype=float64",
    "dp=2,zero=3,dtype=float64",
    "tp=2,dtype=float64",
    "pp=2,schedule=zb-h1,dtype=float64",
    "dtype=float32",
    "dp=2,dtype=float32",
    "dtype=bfloat16",
    "dp=2,dtype=bfloat16",
)
"""The curves where none are named: four layouts in float64, two in float32 and in bfloat16."""

SMALL: dict[str, Any] = {"layers": 2, "hidden": 32, "heads": 4, "seq": 32, "global_batch": 8}
"""A model small enough for hundreds of steps while one watches."""

TOLD = ("dialect", "seed", "optimizer", *SMALL)
"""What a report says of the model."""

ALSO = ("dtype",)
"""What a curve may choose beside its layout."""

TARGET = "parallel_core.compare.quiet_ranks:train"

Say = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How long the curves are."""

    steps: int = whole(500, 2, 100_000, "steps of every curve")

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class Curve(Request):
    """A run that tells its losses alone."""

    parity: bool = False

    @property
    def order(self) -> tuple[str, int, dict[str, Any]]:
        """The quiet target, its ranks and arguments."""
        return TARGET, self.plan.world_size, self.args


def measure(found: Sequence[Contender], steps: int, pool: Pool, say: Say) -> dict[str, list[float]]:
    """The losses of every contender, one run after the other; RunError for a rank that failed."""
    losses: dict[str, list[float]] = {}
    for at, who in enumerate(found):
        curve, told = Curve(plan=who.plan, steps=steps), losses.setdefault(who.name, [])
        with pool.start(*curve.order) as run:
            for event in run.events():
                told.append(float(event["loss"]))
                say(who.name, (at + len(told) / steps) / len(found))
            run.wait()
    return losses


def report(found: Sequence[Contender], losses: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Every curve, and how far it departs from the first one, and from the first of its type."""
    first = found[0]
    heads: dict[str, Contender] = {}
    for who in found:
        heads.setdefault(who.plan.dtype, who)
    steps = len(losses[first.name])
    return {
        "title": f"{steps} steps of one model, by layout and element type",
        "steps": steps,
        "reference": first.name,
        "model": {name: first.plan.flat()[name] for name in TOLD},
        "lines": [_line(who, heads[who.plan.dtype], first, losses) for who in found],
        **circumstances(),
    }  # fmt: skip


def _line(
    who: Contender, head: Contender, first: Contender, losses: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    mine = list(losses[who.name])
    return {
        "name": who.name,
        "layout": who.plan.layout,
        "dtype": who.plan.dtype,
        "reduction": reduction(who.plan),
        "losses": mine,
        "apart": apart(mine, losses[first.name]),
        "of_its_type": head.name,
        "apart_of_its_type": apart(mine, losses[head.name]),
    }


def apart(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """The largest difference of two curves, and the step it is at.

    >>> apart([4.0, 3.0, 2.5], [4.0, 3.25, 2.5])
    {'most': 0.25, 'step': 1}
    """
    gaps = [abs(a - b) for a, b in zip(one, other, strict=True)]
    most = max(gaps)
    return {"most": most, "step": gaps.index(most)}


def reduction(plan: Plan) -> str:
    """In which type ranks sum gradients and activations, and what the update is made in."""
    update = "float32 (a master copy)" if plan.mixed else plan.dtype
    summed = [
        what
        for what, ranks in (("gradients", plan.gradient_ranks), ("activations", plan.tp))
        if ranks > 1
    ]
    over = f"{' and '.join(summed)} in {plan.dtype}" if summed else "none"
    return f"sums over ranks: {over}; update in {update}"

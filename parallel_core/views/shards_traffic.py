"""What a rank sends in a step under each ZeRO stage: by the formula, predicted, and counted.

predicted   what the plan's program hands over, message by message
counted     what the tensors of a run were
formula     a coefficient times Ψ(n-1)/n, for n ranks that share (data/traffic.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_core.data.traffic import times_around
from parallel_core.ledger import predicted_counts, wire
from parallel_core.pieces import pieces
from parallel_core.plan import DType, Plan
from parallel_core.program import Program
from parallel_core.sizes import value_bytes

Sent = Mapping[str, float]
"""Elements that one rank sends in a step, by mesh axis: the mean over ranks."""


@dataclass(frozen=True)
class Traffic:
    """One stage: its plan, what its program says a rank sends, what a run counted (or None)."""

    plan: Plan
    predicted: Sent
    counted: Sent | None = None

    @property
    def total(self) -> float:
        """Elements predicted over all axes."""
        return sum(self.predicted.values())

    @property
    def equal(self) -> bool | None:
        """Whether the run counted exactly that, axis by axis; None before a run."""
        return None if self.counted is None else dict(self.counted) == dict(self.predicted)

    @property
    def in_psi(self) -> float:
        """What the ranks that share shards send, in units of Ψ(n-1)/n."""
        axis = self.plan.shard_axis
        n = self.plan.mesh.degree(axis)
        whole = elements(self.plan) * (n - 1) / n
        return self.predicted.get(axis, 0.0) / whole if whole else 0.0


def elements(plan: Plan) -> int:
    """Ψ: the weights of the model."""
    return sum(piece.numel for piece in pieces(plan))


def formula(plan: Plan) -> str:
    """What the shards of a stage cost, in Ψ(n-1)/n."""
    if plan.zero == 3:
        return "2mΨ" if plan.keep_gathered else "3mΨ"
    return "(m+1)Ψ" if plan.zero == 2 else "2Ψ"


def coefficient(plan: Plan) -> int:
    """The formula's number for this plan."""
    return times_around(plan.zero, microbatches=plan.microbatches, keep_gathered=plan.keep_gathered)


def at_stage(plan: Plan, zero: int) -> Plan:
    """The same plan with another ZeRO stage; plain data parallelism has no shards to share."""
    return plan.but(zero=zero, shard=plan.shard if zero else None)


def predicted(plan: Plan, program: Program) -> Sent:
    """What a rank sends, from the plan's program."""
    counts = predicted_counts(program, value_bytes(plan), 1)
    return sent(wire(counts, plan.mesh.degree), plan, 1)


def sent(table: Mapping[str, Mapping[str, Any]], plan: Plan, steps: int) -> Sent:
    """Elements a rank and step from the wire half of a ledger over `steps` steps."""
    per = DType(plan.dtype).bytes * plan.world_size * max(steps, 1)
    return {axis: sum(op["wire_bytes"] for op in ops.values()) / per for axis, ops in table.items()}


def rows(stages: Sequence[Traffic]) -> list[dict[str, str]]:
    """The table: a column a stage, a row a figure; the first stage is what the last row compares
    with. Elements of one rank in a step, over each mesh axis.
    """
    base = stages[0].total
    axes = dict.fromkeys(axis for one in stages for axis in one.predicted)
    figures = {
        "formula": [_formula(one.plan) for one in stages],
        "in Ψ(n-1)/n": [f"{one.in_psi:.5g}" for one in stages],
    }
    for axis in axes:
        figures[f"predicted, {axis}"] = [_said(one.predicted, axis) for one in stages]
        figures[f"counted, {axis}"] = [
            _said(one.counted, axis) if axis in one.predicted else "" for one in stages
        ]
    figures["equal"] = [{None: "", True: "yes", False: "NO"}[one.equal] for one in stages]
    figures["to plain DP"] = [f"{one.total / base:.4g} x" if base else "" for one in stages]
    names = [f"ZeRO-{one.plan.zero}" if one.plan.zero else "plain DP" for one in stages]
    return [
        {"a rank sends": name, **dict(zip(names, cells, strict=True))}
        for name, cells in figures.items()
    ]


def _formula(plan: Plan) -> str:
    return formula(plan) + (" + 2Ψ/k" if plan.shard_axis != "dp" else "")


def _said(found: Sent | None, axis: str) -> str:
    return "not run" if found is None else f"{found[axis]:,.10g}" if axis in found else ""

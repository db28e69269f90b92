"""What a rank sends in a step under each ZeRO stage: by the formula, predicted, and counted.

    stage 0     all-reduce                                  2Ψ
    stage 1     reduce-scatter, all-gather                  2Ψ
    stage 2     m reduce-scatters, an all-gather            (m+1)Ψ
    stage 3     m x (two all-gathers, a reduce-scatter)     3mΨ;  2mΨ if gathered weights are kept

Ψ elements, m microbatches, each to be multiplied by (n-1)/n for n ranks that share: that is what
a ring sends. Rajbhandari et al. 2019, arXiv:1910.02054, section 7; with accumulation, counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_core.cases import program_of
from parallel_core.ledger import predicted_counts, wire
from parallel_core.params import pieces
from parallel_core.plan import DType, Plan
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
    m = plan.microbatches
    return {"2mΨ": 2 * m, "3mΨ": 3 * m, "(m+1)Ψ": m + 1, "2Ψ": 2}[formula(plan)]


def at_stage(plan: Plan, zero: int) -> Plan:
    """The same plan with another ZeRO stage; plain data parallelism has no shards to share."""
    return plan.but(zero=zero, shard=plan.shard if zero else None)


def predicted(plan: Plan) -> Sent:
    """What a rank sends, from the plan's program."""
    program, size = program_of(plan), value_bytes(plan)
    return sent(wire(predicted_counts(program, size, 1), plan.mesh.degree), plan, 1)


def sent(table: Mapping[str, Mapping[str, Any]], plan: Plan, steps: int) -> Sent:
    """Elements a rank and step from the wire half of a ledger over `steps` steps."""
    per = DType(plan.dtype).bytes * plan.world_size * max(steps, 1)
    return {axis: sum(op["wire_bytes"] for op in ops.values()) / per for axis, ops in table.items()}


def rows(stages: Sequence[Traffic]) -> list[dict[str, str]]:
    """The table, one row a stage; the first row is what the last column compares with."""
    base = stages[0].total
    return [
        {
            "": f"ZeRO-{one.plan.zero}" if one.plan.zero else "plain DP",
            "formula": formula(one.plan) + (" + 2Ψ/k" if one.plan.shard_axis != "dp" else ""),
            "in Ψ(n-1)/n": f"{one.in_psi:.4g}",
            "a rank sends": _said(one.predicted),
            "counted": "not run yet" if one.counted is None else _said(one.counted),
            "equal": {None: "", True: "yes", False: "NO"}[one.equal],
            "times plain DP": f"{one.total / base:.4g}" if base else "",
        }
        for one in stages
    ]


def _said(found: Sent) -> str:
    if len(found) == 1:
        return f"{next(iter(found.values())):,.10g}"
    return " + ".join(f"{count:,.10g} ({axis})" for axis, count in found.items()) or "0"

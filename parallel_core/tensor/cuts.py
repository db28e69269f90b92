"""Which part of each parameter a rank of a tensor-parallel group holds.

    column   q, k, v, gate, up (weights and biases), the tables of embedding and head    rows
    row      o, down                                                                     columns
    whole    norms, positions, the biases of o and down

Where there are fewer key/value heads than ranks, neighbours hold the same one: its gradient is the
sum of theirs. Under sequence parallelism a whole parameter's gradient is a part of a sum as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.params import ParamSpec
from parallel_core.plan import Plan

COLUMN = frozenset({"q", "k", "v", "gate", "up", "tokens", "out"})
ROW = frozenset({"o", "down"})


@dataclass(frozen=True)
class Cut:
    """Elements `start` to `stop` along `dim`; `copies` ranks hold the same ones."""

    dim: int
    start: int
    stop: int
    copies: int = 1


def cut(plan: Plan, spec: ParamSpec, n: int, me: int) -> Cut | None:
    """What rank `me` of n holds of a parameter; None for all of it."""
    *_, module, kind = spec.name.split(".")
    if module in COLUMN:
        dim = 0
    elif module in ROW and kind == "weight":
        dim = 1
    else:
        return None
    parts = min(n, plan.model.kv) if module in ("k", "v") else n
    size, at = spec.shape[dim] // parts, me * parts // n
    return Cut(dim, at * size, (at + 1) * size, n // parts)

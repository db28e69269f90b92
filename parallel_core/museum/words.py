"""What a visit found, in sentences: where the mistake first shows, and what its factors say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parallel_core.museum.exhibit import PROBE
from parallel_core.museum.request import PLANTED, RIGHT

Found = Mapping[str, Any]
"""One optimizer's part of a report (report.py)."""


def wrong_tensors(found: Found) -> list[Mapping[str, Any]]:
    """The tensors whose first gradient is off by more than rounding, the worst first."""
    bound = found["witnesses"][PROBE]["bound"]
    rows = [row for row in found["tensors"][PLANTED] if not row["error"] <= bound]
    return sorted(rows, key=lambda row: -row["error"])


def divergence(found: Found) -> str:
    """Where it shows first: in a forward, or only in what follows."""
    first = found["curves"][PLANTED][0]["loss"] / found["curves"][RIGHT][0]["loss"] - 1
    rows = wrong_tensors(found)
    every = len(found["tensors"][PLANTED])
    which = "all" if len(rows) == every else str(len(rows)) if rows else "none"
    said = f"Of {every} gradients of the first step {which} are wrong{_factor(rows)}."
    if not rows:
        return said
    if found["forward_right"]:
        return f"The first loss is right to the last digit, so the forward is. {said}"
    return f"The first loss is off by {first:+.1e} already: the mistake is in the forward. {said}"


def _factor(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether one factor explains them all."""
    factors = [row["factor"] for row in rows]
    alike = bool(rows) and max(factors) - min(factors) < 1e-9
    if alike and max(row["rest"] for row in rows) < 1e-9:
        return f", each {factors[0]:.4g} times the right one and else the same"
    return ""


def copies(found: Found) -> str:
    """Whether ranks that should hold the same weights still do; empty where none do."""
    told = found["replicas"][PLANTED]
    if told is None:
        return ""
    if told["equal"]:
        return "Replicas stay equal to the bit: comparing them finds nothing."
    return f"Replicas part: {told['first_difference']}."


def witness_rows(found: Found) -> list[dict[str, str]]:
    """Who notices, in print."""
    rows = []
    for name, one in found["witnesses"].items():
        if "moved" in one:
            moved = f"{one['moved']:.2g} ({100 * one['relative']:.2g} %)"
            against = f"another seed moves it {one['seed_moves']:.2g}"
        else:
            moved = f"{one['planted']:.1e} relative"
            against = f"{one['right']:.1e} without the bug; rounding explains {one['bound']:.0e}"
        notices = "yes" if one["notices"] else "no"
        rows.append(
            {"witness": name, "the bug moves it": moved, "beside": against, "notices": notices}
        )
    return rows

"""The matrix, run: each layout on real ranks of one pool against one process, one after another.

A layout that is off runs again with everything watched, to find where it first departs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from typing import Any

from parallel_core.launch import Pool, RunCancelled, RunError
from parallel_core.machine import check_bears
from parallel_core.params import param_specs
from parallel_core.parity.first import TOLERANCE, Divergence, Results, first
from parallel_core.parity.matrix import Cell
from parallel_core.plan import Plan

TARGET = "parallel_core.parity.ranks:compare"
PRELOAD = ("parallel_core.parity.ranks", "parallel_core.runtime", "parallel_core.oracle")
STEPS = 3

QUIET_S = 60.0
"""Seconds without a sign of life after which a run of so small a model is given up."""


class State(StrEnum):
    """What became of a cell."""

    EQUAL = "equal"
    OFF = "off"  # a number differs
    BROKEN = "broken"  # a rank failed, nothing moved, or not everything was compared
    REFUSED = "refused"

    @property
    def red(self) -> bool:
        """Whether this must not be."""
        return self in (State.OFF, State.BROKEN)


@dataclass(frozen=True)
class Check:
    """One layout to be compared, as Pool.start and Jobs.submit take it."""

    plan: Plan
    look: bool = False
    target: str = TARGET
    steps: int = STEPS

    @property
    def order(self) -> tuple[str, int, dict[str, Any]]:
        """Target, ranks, arguments."""
        args = {"plan": self.plan.flat(), "steps": self.steps, "look": self.look}
        return self.target, self.plan.world_size, args


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found of one cell.

    `errors` are the largest of each kind over ranks and steps, `tensors` those of every parameter:
    its gradient's and its own. `first` is where it went wrong, `message` the same, or why there is
    nothing to compare.
    """

    cell: Cell
    state: State
    seconds: float = 0.0
    errors: dict[str, float] = field(default_factory=dict)
    tensors: dict[str, dict[str, float]] = field(default_factory=dict)
    first: Divergence | None = None
    message: str = ""

    @property
    def worst(self) -> float:
        """The largest error of all."""
        return max(self.errors.values(), default=0.0)

    def as_json(self) -> dict[str, Any]:
        """The whole outcome, JSON-ready."""
        plan = self.cell.plan
        return {
            "layout": self.cell.layout,
            "name": self.cell.name,
            "section": self.cell.section,
            "kinds": self.cell.kinds,
            "ways": self.cell.parts,
            "ranks": None if plan is None else plan.world_size,
            "model_changed": self.cell.changed,
            "state": self.state,
            "seconds": round(self.seconds, 3),
            "errors": self.errors,
            "tensors": self.tensors,
            "first": None if self.first is None else self.first.as_json(),
            "message": self.message,
        }


def sweep(
    cells: Iterable[Cell], pool: Pool, *, target: str = TARGET, tolerance: float = TOLERANCE
) -> Iterator[Outcome]:
    """Every cell's outcome, in their order; closing the iterator ends the run under way."""
    for cell in cells:
        yield outcome(cell, pool, target=target, tolerance=tolerance)


def outcome(
    cell: Cell, pool: Pool, *, target: str = TARGET, tolerance: float = TOLERANCE
) -> Outcome:
    """One cell, run and judged; RunCancelled where its owner ended it.

    A layout that this machine does not bear now is refused like one that cannot be.
    """
    if cell.plan is None:
        return Outcome(cell=cell, state=State.REFUSED, message=cell.refused)
    try:
        check_bears(cell.plan)
    except ValueError as error:
        return Outcome(cell=cell, state=State.REFUSED, message=str(error))
    start = time.perf_counter()
    try:
        results = _run(pool, Check(cell.plan, target=target))
        found = judge(cell, results, tolerance=tolerance)
        if found.state is State.OFF:
            found = _looked_at(found, _run(pool, Check(cell.plan, True, target)), tolerance)
    except RunCancelled:
        raise
    except RunError as error:
        found = Outcome(cell=cell, state=State.BROKEN, message=str(error))
    return Outcome(**{**vars(found), "seconds": time.perf_counter() - start})


def _run(pool: Pool, check: Check) -> list[Any]:
    with pool.start(*check.order, silence_s=QUIET_S) as run:
        return run.wait()


def _looked_at(found: Outcome, results: Results, tolerance: float) -> Outcome:
    """The first divergence, more exactly; the first run's stands where the second went well."""
    assert found.cell.plan is not None
    again = first(found.cell.plan, results, tolerance)
    said = again.sentence if again else f"{found.message}; a second run went well"
    return Outcome(**{**vars(found), "first": again or found.first, "message": said})


def judge(cell: Cell, results: Results, *, tolerance: float = TOLERANCE) -> Outcome:
    """What the ranks told, weighed."""
    assert cell.plan is not None
    tensors: dict[str, dict[str, float]] = {}
    for row in (row for result in results for row in result["tensors"]):
        told = tensors.setdefault(row["name"], {"gradient": 0.0, "parameter": 0.0})
        told[row["kind"]] = max(told[row["kind"]], row["error"])
    errors = {
        "loss": max(row["error"] for result in results for row in result["losses"]),
        "gradient norm": max(row["error"] for result in results for row in result["norms"]),
        "gradients": max(told["gradient"] for told in tensors.values()),
        "parameters": max(told["parameter"] for told in tensors.values()),
    }
    where, missing = first(cell.plan, results, tolerance), uncompared(cell.plan, results)
    right = State.BROKEN if missing else State.EQUAL
    return Outcome(
        cell=cell,
        state=right if where is None else State.OFF,
        errors=errors,
        tensors=tensors,
        first=where,
        message=missing if where is None else where.sentence,
    )


def uncompared(plan: Plan, results: Results) -> str:
    """What of a parameter no rank compared in some step, in a sentence; "" where nothing is left.

    Ranks tell which part of a parameter they hold. Copies apart, the parts are all of it.
    """
    seen: dict[tuple[int, str, str], dict[tuple[int, str], int]] = {}
    for row in (row for result in results for row in result["tensors"]):
        parts = seen.setdefault((row["step"], row["kind"], row["name"]), {})
        parts[row["start"], str(row["cut"])] = row["real"]
    for step in range(len(results[0]["losses"])):
        for spec, kind in product(param_specs(plan), ("gradient", "parameter")):
            found = sum(seen.get((step, kind, spec.name), {}).values())
            if found != spec.numel:
                what = "the gradient of " if kind == "gradient" else ""
                return (
                    f"step {step}: of {what}{spec.name} {found} of"
                    f" {spec.numel} elements were compared"
                )
    return ""


def summary(outcomes: Sequence[Outcome], world: int, *, tolerance: float) -> dict[str, Any]:
    """The matrix as one JSON object."""
    counts = {str(state): sum(each.state is state for each in outcomes) for state in State}
    return {
        "what": "max |parallel - single| / max |single| of every tensor, on every rank",
        "world": world,
        "steps": STEPS,
        "dtype": "float64",
        "tolerance": tolerance,
        "counts": counts,
        "seconds": round(sum(each.seconds for each in outcomes), 3),
        "worst": max((each.worst for each in outcomes), default=0.0),
        "cells": [each.as_json() for each in outcomes],
    }

"""Worker functions for the tests of the bug museum: several visits in the same processes."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from parallel_core import runtime
from parallel_core.kernel_choice import kernels_of
from parallel_core.kernels import TrainKernels
from parallel_core.museum import ranks
from parallel_core.museum.planted import planted
from parallel_core.museum.request import PLANTED, Visit
from parallel_core.plan import Plan
from parallel_core.rank import Rank


def visit_all(rank: Rank, requests: list[dict[str, Any]]) -> list[Any]:
    """Every visit in turn; each tells its number before its events. Trainings without a bug that
    two visits have in common are made once; what they told is told again."""
    results, made = [], Once(ranks._train)
    ranks._train = made
    try:
        for number, request in enumerate(requests):
            rank.emit({"event": "visit", "rank": rank.rank, "number": number})
            results.append(ranks.visit(rank, request=request))
    finally:
        ranks._train = made.train
    return results


class Once:
    """`train`, but for a training without a bug that has been made already: that is remembered."""

    def __init__(self, train: Any) -> None:
        self.train = train
        self.kept: dict[str, tuple[Any, list[dict[str, Any]]]] = {}

    def __call__(self, rank: Rank, asked: Visit, plan: Plan, which: str) -> dict[str, Any]:
        if which == PLANTED:
            return self.train(rank, asked, plan, which)
        key = f"{plan.flat()} {asked.steps} {which}"
        if key in self.kept:
            told, events = self.kept[key]
            for event in events:
                rank.emit(event)
            return told
        events, emit = [], rank.emit
        rank.emit = lambda event: (events.append(event), emit(event))[1]
        try:
            told = self.train(rank, asked, plan, which)
        finally:
            rank.emit = emit
        self.kept[key] = told, events
        return told


class Printed(TrainKernels):
    """Lets the test have the gradients' and weights' fingerprints of the last step."""

    last: Any = None

    def sources(self) -> dict[str, str]:
        return {}

    def snapshot(self) -> Any:
        found = super().snapshot()
        type(self).last = [fingerprints(tensors) for tensors in found]
        return found


def fingerprints(tensors: dict[str, Any]) -> dict[str, str]:
    """A few letters for each tensor that tell it from any other, to the bit."""
    return {
        name: blake2b(t.contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        for name, t in tensors.items()
    }


def prints(rank: Rank, cases: list[list[Any]]) -> list[Any]:
    """Per (plan, way): losses, norms and fingerprints after two steps. The ways: "plain" is train()
    as everybody calls it, "made" hands over the usual kernels, any other names a bug."""
    told = []
    for flat, way in cases:
        plan = Plan.of(**flat)
        usual = kernels_of(plan)
        kernels = usual if way in ("plain", "made") else planted(usual, way)
        kept: Any = type("Kept", (Printed, kernels), {"last": None})
        if way == "plain":  # what nobody asked a bug of: its kernels are looked at, not chosen
            given = runtime.kernels_of
            runtime.kernels_of = lambda _, kept=kept: kept
            try:
                result = runtime.train(rank, plan=flat, steps=2, parity=False)
            finally:
                runtime.kernels_of = given
        else:
            result = runtime.train(rank, plan=flat, steps=2, parity=False, make=kept)
        steps = [[row["loss"], row["grad_norm"]] for row in result["metrics"]]
        told.append([steps, kept.last])
    return told

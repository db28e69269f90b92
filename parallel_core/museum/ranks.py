"""A rank of a visit: one training right, the same with the bug, the same from another seed.

The other seed is the yardstick: a curve can only tell of a bug that moves it further than another
start and another order of the data would.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from parallel_core import oracle, runtime
from parallel_core.kernel_choice import kernels_of
from parallel_core.kernels import TrainKernels
from parallel_core.museum.planted import planted
from parallel_core.museum.request import OTHER, PLANTED, Visit
from parallel_core.plan import Plan
from parallel_core.rank import Rank


def visit(rank: Rank, *, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every training of a Visit in turn; per training what rank 0 found.

    Emits {"event": "training", "rank", "optimizer", "which"} before each, and runtime's own events.
    """
    asked, found = Visit(**request), []
    for optimizer in asked.optimizers:
        for which in asked.trainings:
            plan = asked.plan(optimizer, which)
            told = {"rank": rank.rank, "optimizer": optimizer, "which": which}
            rank.emit({"event": "training", **told})
            found.append(
                {"optimizer": optimizer, "which": which, **_train(rank, asked, plan, which)}
            )
    return found


def _train(rank: Rank, asked: Visit, plan: Plan, which: str) -> dict[str, Any]:
    """One training, and on rank 0 the probe."""
    kernels = kernels_of(plan)
    if which == PLANTED:
        kernels = planted(kernels, asked.bug)
    kept: Any = type(f"Watched{kernels.__name__}", (Watched, kernels), {"gathered": []})
    judged = which != OTHER
    result = runtime.train(rank, plan=plan.flat(), steps=asked.steps, make=kept, parity=judged)
    told = {
        "planted": getattr(kept, "planted", None),
        "kernels": kernels.__name__,
        "metrics": [
            {key: row[key] for key in ("step", "loss", "grad_norm")} for row in result["metrics"]
        ],
        "backend": result["backend"],
        "versions": result["versions"],
    }
    if rank.rank or not judged:
        return told
    _, grads, _ = kept.gathered  # weights at the end, first gradients, weights after the probe
    truth = oracle.train(plan.single(), 1)
    return told | {"parity": result["parity"], "tensors": by_tensor(grads, truth.grads)}


class Watched(TrainKernels):
    """Keeps what rank 0 gathered for the comparison, so that it can be told tensor by tensor."""

    gathered: list[dict[str, Tensor]]

    def sources(self) -> dict[str, str]:
        """None: no trace of a visit is kept."""
        return {}

    def collect(self, mine: dict[str, Tensor]) -> dict[str, Tensor]:
        """A snapshot of all ranks on rank 0, remembered."""
        whole = super().collect(mine)
        type(self).gathered.append(whole)
        return whole


def by_tensor(ours: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Each gradient beside the truth, in forward order: its relative error (as
    oracle.relative_error has it), the factor on the truth that fits it best, and what of its size
    that factor leaves unexplained."""
    largest = max(float(b.abs().max()) for b in truth.values())
    rows = []
    for name, b in truth.items():
        a, b = ours[name].double().cpu().flatten(), b.double().flatten()
        size = max(float(b.abs().max()), 1e-3 * largest)
        factor = float(a @ b) / (float(b @ b) or 1.0)
        rows.append(
            {
                "name": name,
                "error": float((a - b).abs().max()) / size,
                "factor": factor,
                "rest": float((a - factor * b).norm() / (a.norm() or 1.0)),
            }
        )
    return rows

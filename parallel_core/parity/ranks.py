"""One layout held against one process, on every rank: what it holds, tensor by tensor.

Each rank runs the oracle for itself and compares its own parts, so that a replica that went astray
is seen as well as the copy that others read. Nothing is gathered: what comes back is numbers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from parallel_core import runtime
from parallel_core.kernel_choice import kernels_of
from parallel_core.kernels import TrainKernels
from parallel_core.parity.probe import Looking, Part, Probe, expected
from parallel_core.parity.truth import Truth, same_sum, train
from parallel_core.plan import Plan
from parallel_core.rank import Rank
from parallel_core.text import columns_of, rows_of

FLOOR = 1e-3
"""Part of the largest entry of all tensors below which an error is not held against the tensor's
own size: a bias without a true gradient holds only noise."""


def compare(
    rank: Rank,
    *,
    plan: Mapping[str, Any],
    steps: int,
    look: bool = False,
    make: type[TrainKernels] | None = None,
) -> dict[str, Any]:
    """Run a plan as one rank of it, and tell how far each of its tensors is from the truth.

    `look` also compares what passes between units, to find where an error begins. `make` builds
    the kernels, by default the plan's; tests plant their faults there.
    """
    chosen = Plan.of(**plan)
    made: list[Any] = []
    base = (Looking if look else Probe, make or kernels_of(chosen))
    kernels_type = type("Probed", base, {"steps": steps})

    def build(*args: Any) -> Any:
        made.append(kernels_type(*args))
        return made[0]

    builder: Any = build  # train asks for a class; a function that returns kernels does as well
    result = runtime.train(rank, plan=plan, steps=steps, parity=False, make=builder)
    kernels = made[0]
    kernels.over()
    truth = train(chosen, steps, look=look)
    metrics = result["metrics"]
    return {
        "losses": [_number(row["loss"], truth.losses[k]) for k, row in enumerate(metrics)],
        "norms": [_number(row["grad_norm"], truth.norms[k]) for k, row in enumerate(metrics)],
        "tensors": [row for k in range(steps) for row in _tensors(kernels.after[k], truth, k)],
        "units": list(_units(kernels, truth)) if look and truth.acts else [],
        "backend": result["backend"]["name"],
        "torch": result["versions"]["torch"],
    }


def _number(ours: float, true: float) -> dict[str, float]:
    return {"ours": ours, "truth": true, "error": abs(ours - true) / max(abs(true), 1e-300)}


def _tensors(parts: list[Part], truth: Truth, step: int) -> Iterator[dict[str, Any]]:
    """Errors of a step's gradients and of the weights after it, tensor by tensor."""
    for kind, wholes in (("gradient", truth.grads[step]), ("parameter", truth.params[step])):
        floor = FLOOR * max(_largest(whole) for whole in wholes.values())
        for part in parts:
            true, real = part.of(wholes[part.name])
            ours = part.grad if kind == "gradient" else part.param
            scale = max(_largest(wholes[part.name]), floor, sys.float_info.min)
            told = {"step": step, "kind": kind, "name": part.name, "start": part.start}
            told["cut"] = [[cut.dim, cut.start, cut.stop, cut.axis] for cut in part.cut]
            sizes = {"numel": part.grad.numel(), "real": int(real.sum())}
            yield told | sizes | _error(ours[real], true[real], scale)


def _error(ours: Tensor, true: Tensor, scale: float) -> dict[str, Any]:
    """The largest difference over `scale`; where there is one, what might explain it."""
    error = _largest(ours.double() - true.double()) / scale
    error = math.inf if math.isnan(error) else error
    if error < 1e-12:
        return {"error": error}
    return {"error": error, "times": _times(ours, true), "sum": [same_sum(ours), same_sum(true)]}


def _times(ours: Tensor, true: Tensor) -> float | None:
    """The number by which the truth was multiplied, if it is one number for all elements."""
    a, b = ours.double(), true.double()
    size = float((b * b).sum())
    if not size:
        return None
    times = float((a * b).sum()) / size
    return times if _largest(a - times * b) <= 1e-9 * _largest(b) else None


def _units(kernels: Any, truth: Truth) -> Iterator[dict[str, Any]]:
    """Errors of what units handed on, and of the gradients that came back, by microbatch."""
    plan, rank = kernels.plan, kernels.rank
    columns = columns_of(plan, rank)
    positions, tp = torch.from_numpy(columns.positions), plan.mesh.coordinate(rank).get("tp", 0)
    real = torch.arange(len(positions)) < columns.real
    real = real.chunk(plan.tp)[tp] if plan.sp else real
    for seen in kernels.passed:
        rows = torch.from_numpy(rows_of(plan, plan.batch_place(rank), seen.mb))
        for kind, ours, wholes in (
            ("forward", [seen.act], truth.acts[seen.step]),
            ("backward", seen.dact, truth.dacts[seen.step]),
        ):
            if not ours:
                continue
            true = expected(plan, wholes[seen.unit], (rows, positions), tp)
            scale = max(_largest(wholes[seen.unit]), sys.float_info.min)
            told = {"step": seen.step, "kind": kind, "unit": seen.unit, "mb": seen.mb}
            yield told | _error(ours[0][:, real], true[:, real], scale)


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().double().abs().max()) if tensor.numel() else 0.0

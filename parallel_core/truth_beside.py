"""A run beside one process: what is copied from it between steps, and how far it is off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallel_core.kernels import TrainKernels
from parallel_core.machine import COMPARED_AT_ONCE
from parallel_core.plan import Optimizer, Plan

if TYPE_CHECKING:
    from parallel_core.oracle import OracleRun

PROBED_STEPS = 3
"""Steps after which the weights are compared with one process."""


@dataclass
class Snapshots:
    """What the probe and the savers need of a run, copied between steps."""

    grads: dict[str, Tensor] = field(default_factory=dict)  # of the first step
    params: dict[str, Tensor] = field(default_factory=dict)  # after the last probed step
    weights: dict[str, Tensor] = field(default_factory=dict)  # at the end
    metrics: list[dict[str, Any]] = field(default_factory=list)


def snapshot(snaps: Snapshots, kernels: TrainKernels, step: int) -> None:
    """Copy what will be compared after a step: gradients of the first, weights of each probed."""
    if not kernels.speaks or step >= PROBED_STEPS:
        return  # replicas are equal: the first speaks for them
    grads, snaps.params = kernels.snapshot()
    if step == 0:
        snaps.grads = grads


def collected(snaps: Snapshots, kernels: TrainKernels) -> None:
    """Bring what the ranks hold apart to rank 0."""
    if kernels.speaks:
        snaps.weights = kernels.collect(kernels.snapshot()[1])
        snaps.grads, snaps.params = kernels.collect(snaps.grads), kernels.collect(snaps.params)


def compared(plan: Plan, snaps: Snapshots) -> dict[str, Any]:
    """The run against one process (oracle.py): losses and gradient norms of 3 steps, the gradients
    of the first, the weights after the third.

    AdamW's weights are compared in float64 only: where a gradient is rounding noise, AdamW turns
    its sign into a full step, so lower precision would compare noise with noise.
    """
    from parallel_core import oracle, oracle_stale

    steps = min(len(snaps.metrics), PROBED_STEPS)
    rows = None if plan.tokens_per_step <= COMPARED_AT_ONCE else plan.rows_per_microbatch
    if plan.asynchronous:
        truth = oracle_stale.train_stale(plan, steps, snapshot_after=PROBED_STEPS)
    else:
        truth = oracle.train(plan.single(), steps, snapshot_after=PROBED_STEPS, rows_at_once=rows)
    return compare(plan, snaps, truth, steps)


def compare(plan: Plan, snaps: Snapshots, truth: OracleRun, steps: int) -> dict[str, Any]:
    """The first `steps` steps of a run against the truth."""
    from parallel_core import oracle

    losses = [metric["loss"] for metric in snaps.metrics[:steps]]
    exact = plan.optimizer == Optimizer.SGD or plan.dtype == "float64"
    normed = steps if exact else 1  # later gradients are those of weights that AdamW moved apart
    norms = [metric["grad_norm"] for metric in snaps.metrics[:normed]]
    grads = {name: g.cpu() for name, g in snaps.grads.items()}
    params = {name: p.cpu() for name, p in snaps.params.items()}
    errors = {
        "loss": oracle.relative_error(_named(losses), _named(truth.losses)),
        "gradient norm": oracle.relative_error(_named(norms), _named(truth.grad_norms[:normed])),
        "gradients": oracle.relative_error(grads, truth.grads),
        "parameters": oracle.relative_error(params, truth.params),
    }
    counted = ["loss", "gradient norm", "gradients"]
    if exact:
        counted.append("parameters")
    return {
        "max_rel_error": max(errors[name] for name in counted),
        "tensors": len(grads),
        "steps": steps,
        "errors": errors,
        "counted": counted,
        "max_abs_error": max((float((grads[n] - g).abs().max()) for n, g in truth.grads.items())),
    }


def _named(numbers: Sequence[float]) -> dict[str, Tensor]:
    """Numbers as float64 tensors by step: a float32 one would round the difference away."""
    return {str(i): torch.tensor(x, dtype=torch.float64) for i, x in enumerate(numbers)}

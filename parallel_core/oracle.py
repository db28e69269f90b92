"""The truth: the same training on one process, by `loss.backward()` and `torch.optim` alone.

Nothing here knows of ranks, programs or messages, so nothing here can share their mistakes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel_core.model import IGNORED, Place, Transformer, init_weights
from parallel_core.plan import Balance, Optimizer, Plan
from parallel_core.text import Sampler


@dataclass(frozen=True)
class OracleRun:
    """What one process measured: per step the loss and the gradient's norm (over all parameters).

    `grads` is the gradient of the first step, `params` the weights after the last of the first
    `snapshot_after` steps; both by parameter name, in the plan's dtype.
    """

    losses: list[float]
    grad_norms: list[float]
    grads: dict[str, Tensor]
    params: dict[str, Tensor]


def train(
    plan: Plan, steps: int, *, snapshot_after: int = 3, rows_at_once: int | None = None
) -> OracleRun:
    """Train for `steps` steps on the CPU; the layout fields of the plan make no difference.

    The whole global batch goes through at once, or `rows_at_once` rows after another where memory
    asks for it. With 0 steps, `params` is the start and everything else is empty.
    """
    model = Transformer(plan)
    init_weights(model, plan)
    weights = dict(model.named_parameters())
    masters = {n: w.detach().float() if plan.mixed else w for n, w in weights.items()}
    optimizer = make_optimizer(list(masters.values()), plan)
    sampler, run = Sampler(plan), OracleRun([], [], {}, _copy(weights))
    for step in range(steps):
        model.zero_grad()
        run.losses.append(_backward(model, sampler, step, rows_at_once or plan.global_batch))
        grads = {name: w.grad for name, w in weights.items() if w.grad is not None}
        run.grad_norms.append(sum(g.double().square().sum().item() for g in grads.values()) ** 0.5)
        if plan.clip:
            torch.nn.utils.clip_grad_norm_(weights.values(), plan.clip)
        if step == 0:
            run.grads.update(_copy(grads))
        _update(optimizer, weights, masters)
        _move_biases(model)
        if plan.moments == "bfloat16":
            round_moments(optimizer)
        if step < snapshot_after:
            run.params.update(_copy(weights))
    return run


def make_optimizer(params: list[Tensor], plan: Plan) -> torch.optim.Optimizer:
    """SGD without momentum, or AdamW with torch's defaults; see Kingma 2014, Loshchilov 2017."""
    if plan.optimizer == Optimizer.SGD:
        return torch.optim.SGD(params, lr=plan.learning_rate)
    return torch.optim.AdamW(params, lr=plan.learning_rate)


def round_moments(optimizer: torch.optim.Optimizer) -> None:
    """AdamW's moments as bfloat16 would keep them; the step before has used them unrounded."""
    for state in optimizer.state.values():
        for moment in (state[name] for name in ("exp_avg", "exp_avg_sq") if name in state):
            moment.copy_(moment.bfloat16())


def _backward(model: Transformer, sampler: Sampler, step: int, rows_at_once: int) -> float:
    """Add the gradient of a step's global batch to the weights; returns the loss."""
    batch, total = sampler.batch(step), 0.0
    ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
    valid_tokens = int((labels != IGNORED).sum())
    for rows in torch.split(torch.arange(len(ids)), rows_at_once):
        place = Place(model.plan.seed, step, rows, torch.arange(ids.shape[1]))
        loss = model(ids[rows], labels[rows], place, valid_tokens)
        loss.backward()
        total += loss.item()
        for moe in model.routers.values():
            assert moe.routed is not None
            moe.load_e += moe.routed.rows.asked
    return total


def _move_biases(model: Transformer) -> None:
    """Where loads move a router's bias, by those of the whole step."""
    for moe in model.routers.values():
        if model.plan.model.balance == Balance.BIAS:
            moe.router.move_bias(moe.load_e, model.plan.model.bias_rate)
        moe.load_e.zero_()


def _update(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], masters: Mapping[str, Tensor]
) -> None:
    """One step of the masters; where they are float32 copies, gradients in and weights out."""
    apart = [(weights[n], master) for n, master in masters.items() if master is not weights[n]]
    for weight, master in apart:
        master.grad = None if weight.grad is None else weight.grad.float()
    optimizer.step()
    with torch.no_grad():
        for weight, master in apart:
            weight.copy_(master)


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in tensors.items()}


def relative_error(ours: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """The largest of max|a - b| / max(max|b|, 1e-3 M) over tensors, M the largest entry of truth.

    The floor is there because a gpt key bias has a zero gradient and holds only noise. A NaN
    anywhere gives NaN; raises ValueError if names or shapes differ.
    """
    if ours.keys() != truth.keys():
        raise ValueError(f"tensors {sorted(ours.keys() ^ truth.keys())} are on one side only")
    largest = {name: _largest(b) for name, b in truth.items()}
    floor = max(1e-3 * max(largest.values(), default=0.0), sys.float_info.min)
    worst = [torch.zeros((), dtype=torch.float64)]
    for name, b in truth.items():
        if ours[name].shape != b.shape:
            raise ValueError(f"{name} is {tuple(ours[name].shape)}, not {tuple(b.shape)}")
        difference = _largest(ours[name].double() - b.double())
        worst.append(torch.tensor(difference / max(largest[name], floor), dtype=torch.float64))
    return float(torch.stack(worst).max())


def _largest(tensor: Tensor) -> float:
    return tensor.detach().double().abs().max().item() if tensor.numel() else 0.0

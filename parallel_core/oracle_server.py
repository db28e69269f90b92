"""The truth of an asynchronous parameter server: its updates in their order, on one process.

Update i is a gradient on the weights after so many updates, and is applied to the newest. Nothing
here knows of ranks, programs or messages: who pushed when is given, all else follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from parallel_core.model import IGNORED, Place, Transformer, init_weights
from parallel_core.oracle import OracleRun, make_optimizer
from parallel_core.plan import Plan
from parallel_core.text import Sampler, rows_of


def train_pushed(plan: Plan, pushes: Sequence[tuple[int, int]]) -> OracleRun:
    """Apply gradients (worker, version its weights had); every dp of them are one step.

    A worker's k-th gradient is that of its rows of batch k. Losses are means over a step's
    updates, norms the roots of mean squares; `grads` is the first update's gradient.
    """
    model = Transformer(plan)
    init_weights(model, plan)
    newest = {n: w.detach().clone() for n, w in model.named_parameters()}
    masters = {n: w.float() if plan.mixed else w for n, w in newest.items()}
    optimizer, sampler = make_optimizer(list(masters.values()), plan), Sampler(plan)
    last_use = {version: number for number, (_, version) in enumerate(pushes)}
    versions: dict[int, dict[str, Tensor]] = {}
    seen, losses, squares = [0] * plan.dp, [], []
    run = OracleRun([], [], {}, {})
    for number, (worker, version) in enumerate(pushes):
        if number in last_use:
            versions[number] = _copy(newest)
        used = {n: w.requires_grad_() for n, w in versions[version].items()}
        loss = _loss(model, sampler, (worker, seen[worker]), used)
        seen[worker] += 1
        grads = dict(zip(used, torch.autograd.grad(loss, list(used.values())), strict=True))
        losses.append(loss.item())
        squares.append(sum(g.double().square().sum().item() for g in grads.values()))
        for name, master in masters.items():
            master.grad = grads[name].to(master.dtype)
        optimizer.step()
        for name, master in masters.items():
            newest[name].copy_(master)
        if number == 0:
            run.grads.update(_copy(grads))
        if last_use[version] == number:
            del versions[version]
    run.params.update(_copy(newest))
    for first in range(0, len(pushes), plan.dp):
        step = slice(first, first + plan.dp)
        run.losses.append(sum(losses[step]) / plan.dp)
        run.grad_norms.append((sum(squares[step]) / plan.dp) ** 0.5)
    return run


def _loss(
    model: Transformer, sampler: Sampler, which: tuple[int, int], weights: Mapping[str, Tensor]
) -> Tensor:
    """The mean loss of one worker's rows of one batch, (worker, batch)."""
    worker, step = which
    rows = rows_of(model.plan, worker, 0)
    batch = sampler.batch(step).rows(rows)
    ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
    place = Place(model.plan.seed, step, torch.from_numpy(rows), torch.arange(model.plan.seq))
    valid = int((labels != IGNORED).sum())
    loss: Tensor = functional_call(model, dict(weights), (ids, labels, place, valid))
    return loss


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in tensors.items()}

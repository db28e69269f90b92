"""The truth of asynchronous PipeDream: its stale weights on one process, minibatch by minibatch.

Stage s of p sees weights p-1-s updates old, w_s(t - (p-1-s)), never older than those at the start
of the step, where the pipeline was empty (Narayanan et al. 2019, arXiv:1806.03377, 3.3). Nothing
here knows of ranks, programs or messages: which version a stage uses is that formula alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from parallel_core.model import IGNORED, Place, Transformer, init_weights
from parallel_core.oracle import OracleRun, make_optimizer, round_moments
from parallel_core.pieces import pieces, stage_pieces
from parallel_core.plan import Plan
from parallel_core.text import Sampler, rows_of


def train_stale(plan: Plan, steps: int, *, snapshot_after: int = 3) -> OracleRun:
    """Train for `steps` steps of m updates each; losses and norms are means over a step's updates.

    `grads` is the last minibatch's gradient of the first step.
    """
    whole = plan.single()
    model = Transformer(whole)
    init_weights(model, whole)
    masters = {n: w.detach().clone() for n, w in model.named_parameters()}
    stages = [_weights_of(plan, units) for units in stage_pieces(plan)]
    optimizer = make_optimizer(list(masters.values()), plan)
    sampler, run = Sampler(plan), OracleRun([], [], {}, _copy(masters))
    for step in range(steps):
        history, loss, squares = [_copy(masters)], 0.0, 0.0
        for mb in range(plan.microbatches):
            used: dict[str, Tensor] = {}
            for s, names in enumerate(stages):
                version = history[max(0, mb - (len(stages) - 1 - s))]
                used |= {name: version[name].requires_grad_() for name in names}
            found = _minibatch(model, plan, sampler, (step, mb), used)
            loss += found.item()
            grads = dict(zip(used, torch.autograd.grad(found, list(used.values())), strict=True))
            squares += sum(g.double().square().sum().item() for g in grads.values())
            for name, master in masters.items():
                master.grad = grads[name]
            optimizer.step()
            if plan.moments == "bfloat16":
                round_moments(optimizer)
            history.append(_copy(masters))
        run.losses.append(loss / plan.microbatches)
        run.grad_norms.append((squares / plan.microbatches) ** 0.5)
        if step == 0:
            run.grads.update(_copy(grads))
        if step < snapshot_after:
            run.params.update(_copy(masters))
    return run


def _weights_of(plan: Plan, stage: Sequence[int]) -> list[str]:
    return [spec.name for u in stage for spec in pieces(plan)[u].specs]


def _minibatch(
    model: Transformer,
    plan: Plan,
    sampler: Sampler,
    which: tuple[int, int],
    weights: Mapping[str, Tensor],
) -> Tensor:
    """The mean loss of one minibatch, the rows of all data-parallel ranks together."""
    step, mb = which
    batch = sampler.batch(step)
    rows = torch.cat([torch.from_numpy(rows_of(plan, dp, mb)) for dp in range(plan.dp)])
    ids, labels = torch.from_numpy(batch.ids)[rows], torch.from_numpy(batch.labels)[rows]
    place = Place(plan.seed, step, rows, torch.arange(plan.seq))
    valid = int((labels != IGNORED).sum())
    loss: Tensor = functional_call(model, dict(weights), (ids, labels, place, valid))
    return loss


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in tensors.items()}

"""The oracle, watched: every step's gradients and weights, and what passes between units.

It runs as it always does (oracle.py); hooks of torch look on, so nothing of it is done twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from parallel_core import oracle, oracle_stale
from parallel_core.model import Embed, Layer, Transformer
from parallel_core.own_block_layer import OwnLayer
from parallel_core.params import units
from parallel_core.plan import Plan

Named = dict[str, Tensor]


@dataclass
class Truth:
    """What one process did: by step, then by name.

    `acts` is what each unit but the head hands on, [B, S, D] of the whole batch; `dacts` the
    loss's gradient there. Both are empty where nobody asked, and for asynchronous schedules, whose
    weights change between microbatches.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    grads: list[Named] = field(default_factory=list)
    params: list[Named] = field(default_factory=list)
    acts: list[Named] = field(default_factory=list)
    dacts: list[Named] = field(default_factory=list)


def train(plan: Plan, steps: int, *, look: bool = False) -> Truth:
    """The same training on one process; `look` keeps what passes between units as well."""
    told, updates = Truth(), 1
    names = [name for name, _ in Transformer(plan).named_parameters()]
    with ExitStack() as hooks:
        hooks.enter_context(_updates_seen(told, names))
        if plan.asynchronous:
            updates = plan.microbatches
            run = oracle_stale.train_stale(plan, steps)
        else:
            if look:
                hooks.enter_context(_units_seen(plan, told))
            run = oracle.train(plan.single(), steps)
    told.losses, told.norms = run.losses, run.grad_norms
    told.grads, told.params = (
        told.grads[updates - 1 :: updates],
        told.params[updates - 1 :: updates],
    )
    return told


@contextmanager
def _updates_seen(told: Truth, names: list[str]) -> Iterator[None]:
    """Copies of gradients and weights after every update."""

    def look(optimizer: Optimizer, *_: Any) -> None:
        weights = dict(zip(names, optimizer.param_groups[0]["params"], strict=True))
        told.grads.append({n: w.grad.detach().clone() for n, w in weights.items()})
        told.params.append({n: w.detach().clone() for n, w in weights.items()})

    handle = register_optimizer_step_post_hook(look)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _units_seen(plan: Plan, told: Truth) -> Iterator[None]:
    """What embedding and layers hand on, and its gradient."""

    def look(module: nn.Module, _: Any, out: Any) -> None:
        if not isinstance(module, Embed | Layer | OwnLayer):
            return
        if isinstance(module, Embed):
            told.acts.append({})
            told.dacts.append({})
        unit = next(u for u in units(plan.model) if u not in told.acts[-1])  # they come in turn
        into = told.dacts[-1]
        told.acts[-1][unit] = out.detach().clone()
        out.register_hook(lambda grad: into.__setitem__(unit, grad.detach().clone()))

    handle = register_module_forward_hook(look)
    try:
        yield
    finally:
        handle.remove()


def same_sum(tensor: Tensor) -> float:
    """A tensor as one number that no two faults are likely to share: its product with a fixed row
    of cosines, so that sums of tensors are sums of these."""
    flat = tensor.double().flatten()
    row = torch.cos(torch.arange(1, flat.numel() + 1, dtype=torch.float64).square())
    return float(flat @ row)

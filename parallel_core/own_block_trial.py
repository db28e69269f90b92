"""A reader's block, tried out before it is trusted, and measured where ours has formulas.

What is looked at, on one process in float64: that it keeps the shape and what comes in, that two
forwards are equal (no dropout, no state), that rows do not know of each other, and that every
parameter gets a gradient. What breaks one of these would be wrong under some layout.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from parallel_core.activations.meter import metering
from parallel_core.own_block import Described, Weight
from parallel_core.own_block_layer import made, refuse, told
from parallel_core.plan import Plan

ROWS = 3
"""Rows of the trial in float64; they are as long as the plan's, which a block may build upon."""

NEAR = 1e-9
"""How far a row's result alone may lie from its result among others, float64."""


@lru_cache(maxsize=32)
def describe(plan: Plan) -> Described:
    """What own_block.described gives: tried out in float64, then measured in the plan's type."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        weights = _weights(plan)
        _trial(plan)
        return _measured(plan, weights)


def _weights(plan: Plan) -> tuple[Weight, ...]:
    found = []
    for name, weight in made(plan, torch.float64).named_parameters():
        if not weight.requires_grad:
            refuse(plan, f"has a parameter that is not trained, {name}; make it a buffer")
        if not weight.dim():
            refuse(plan, f"has a parameter of no dimension, {name}; give it one, as torch.ones(1)")
        if "experts" in name.split("."):
            refuse(plan, f"has a parameter {name}; `experts` is a name of the lab's own")
        values = weight.detach()
        low, high = float(values.min()), float(values.max())
        std = None if low == high else float(values.std())
        found.append(Weight(name, tuple(weight.shape), std, low if low == high else 0.0))
    if not found:
        refuse(plan, "has no parameters")
    return tuple(found)


def _trial(plan: Plan) -> None:
    """PlanError for a block that would not be the same under every layout."""
    block = made(plan, torch.float64)
    x = torch.randn(ROWS, plan.seq, plan.model.hidden, dtype=torch.float64)
    with told(plan):
        one, two = block(x), block(x)
    if x._version:
        refuse(plan, "writes into what comes in; make it x = x + ..., not x += ...")
    if not isinstance(one, Tensor) or one.shape != x.shape:
        refuse(plan, f"must keep the shape [B, S, {plan.model.hidden}] of what comes in")
    if not torch.equal(one, two):
        refuse(plan, "gives two results for one input: dropout or state, which ranks would not"
                " share")  # fmt: skip
    with told(plan):
        alone = torch.cat([block(row) for row in torch.split(x, 1)])
    if float((alone - one).detach().abs().max()) > NEAR * float(one.detach().abs().max()):
        refuse(plan, "mixes the rows of a batch, which are on different ranks")
    with told(plan):
        torch.autograd.backward(one.square().sum())
    for name, weight in block.named_parameters():
        if weight.grad is None:
            refuse(plan, f"does not use its parameter {name}")


def _measured(plan: Plan, weights: tuple[Weight, ...]) -> Described:
    """Bytes kept and FLOPs of one microbatch, by forwards of that size."""
    dtype = getattr(torch, plan.dtype)
    blocks = [made(plan, dtype) for _ in range(2)]
    ignored = [weight for block in blocks for weight in (*block.parameters(), *block.buffers())]
    shape = (plan.rows_per_microbatch, plan.seq_here, plan.model.hidden)
    x = torch.randn(shape).to(dtype).requires_grad_()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        blocks[0](x)
    with metering(ignored) as meter:
        meter.note(x)
        first = blocks[0](x)
        saved = meter.bytes
        blocks[1](first)
        return Described(weights, saved, meter.bytes - saved, float(counter.get_total_flops()))

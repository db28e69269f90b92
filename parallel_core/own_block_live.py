"""A reader's block, opened: made, tried out in a forward and a backward, and put into a layer.

What is looked at before it is trusted, on one process in float64: that it keeps the shape, that
two forwards are equal (no dropout, no state), that rows do not know of each other, and that every
parameter gets a gradient. What breaks one of these would be wrong under some layout.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from parallel_core.activations.meter import metering
from parallel_core.dropout import Place
from parallel_core.fields import PlanError
from parallel_core.own_block import NONE, Described, Weight
from parallel_core.plan import Plan

ROWS, SEQ = 3, 8
"""Rows and positions of the trial in float64; of a shorter sequence all."""

NEAR = 1e-9
"""How far a row's result alone may lie from its result among others, float64."""


class OwnLayer(nn.Module):
    """The unit "layer<i>" around a reader's block: x[B, S, D] -> [B, S, D]."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.block = made(plan, getattr(torch, plan.dtype))

    def forward(self, x_bsd: Tensor, place: Place) -> Tensor:
        """The block's; where the rows stand is nothing to it."""
        out: Tensor = self.block(x_bsd)
        return out


def made(plan: Plan, dtype: torch.dtype) -> nn.Module:
    """A new block in `dtype`, from the fields of the model that its constructor names."""
    block = plan.model.block or ""
    build = _class(block)
    given = fields_of(plan)
    asked = inspect.signature(build).parameters.values()
    unknown = [p.name for p in asked if p.default is p.empty and p.name not in given
               and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]  # fmt: skip
    if unknown:
        _refuse(plan, f"asks for {unknown[0]}, and the model has {', '.join(given)}")
    with torch.random.fork_rng(devices=[]), _told(plan):
        torch.manual_seed(0)
        module: object = build(**{p.name: given[p.name] for p in asked if p.name in given})
    if not isinstance(module, nn.Module):
        _refuse(plan, "makes no torch.nn.Module")
    return module.to(dtype)


def fields_of(plan: Plan) -> dict[str, int]:
    """What a block's constructor may ask for, by name; the defaults filled in."""
    m = plan.model
    return {
        "hidden": m.hidden,
        "heads": m.heads,
        "kv_heads": m.kv,
        "head_dim": m.head_dim,
        "ffn": m.mlp,
        "layers": m.layers,
        "vocab": m.vocab,
        "seq": plan.seq,
    }


@lru_cache(maxsize=16)
def _class(block: str) -> Callable[..., Any]:
    """The class of "/path/file.py:Class@digest"; one that is not there, or fails, is told."""
    where, _, name = block.rpartition("@")[0].rpartition(":")
    spec = importlib.util.spec_from_file_location(f"own_block_{abs(hash(block))}", where)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found: Callable[..., Any] = getattr(module, name)
    except Exception as error:  # whatever the reader's file does
        rule = f"cannot be opened: {type(error).__name__}: {error}"
        raise PlanError("block", block, rule, NONE) from error
    return found


def _refuse(plan: Plan, rule: str) -> None:
    raise PlanError("block", plan.model.block, rule, NONE)


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
            _refuse(plan, f"has a parameter that is not trained, {name}; make it a buffer")
        if "experts" in name.split("."):
            _refuse(plan, f"has a parameter {name}; `experts` is a name of the lab's own")
        values = weight.detach()
        low, high = float(values.min()), float(values.max())
        std = None if low == high else float(values.std())
        found.append(Weight(name, tuple(weight.shape), std, low if low == high else 0.0))
    if not found:
        _refuse(plan, "has no parameters")
    return tuple(found)


def _trial(plan: Plan) -> None:
    """PlanError for a block that would not be the same under every layout."""
    block = made(plan, torch.float64)
    x = torch.randn(ROWS, min(plan.seq, SEQ), plan.model.hidden, dtype=torch.float64)
    with _told(plan):
        one, two = block(x), block(x)
    if not isinstance(one, Tensor) or one.shape != x.shape:
        _refuse(plan, f"must keep the shape [B, S, {plan.model.hidden}] of what comes in")
    if not torch.equal(one, two):
        _refuse(plan, "gives two results for one input: dropout or state, which ranks would not"
                " share")  # fmt: skip
    alone = torch.cat([block(row) for row in torch.split(x, 1)])
    if float((alone - one).detach().abs().max()) > NEAR * float(one.detach().abs().max()):
        _refuse(plan, "mixes the rows of a batch, which are on different ranks")
    with _told(plan):
        one.square().sum().backward()
    for name, weight in block.named_parameters():
        if weight.grad is None:
            _refuse(plan, f"does not use its parameter {name}")


@contextmanager
def _told(plan: Plan) -> Iterator[None]:
    """What the reader's code raises, as a sentence."""
    try:
        yield
    except Exception as error:
        rule = f"fails in its trial: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise PlanError("block", plan.model.block, rule, NONE) from error


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

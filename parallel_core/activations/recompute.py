"""Recomputation: a block keeps its input alone, and its backward runs the forward again first.

    forward     y = block(x), nothing kept but x
    backward    y = block(x) again, with its graph; then that graph's backward

    full        the block is a whole layer                  kept: its input
    selective   the block is softmax(q k') v (attention)    kept: q, k, v

Where tokens travel in the middle of a layer, full is two blocks: attention with its norm and
projections, and the experts. What is between them, the router's decision and the rows that came,
is kept, so no token travels again.

The same operations on the same numbers, dropout included (its bits are a hash of where they
stand), so gradients are bitwise those of a run that kept everything. Messages inside the block are
sent again as well. Full: Chen et al. 2016, arXiv:1604.06174. Selective: Korthikanti et al. 2022,
arXiv:2205.05198, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function

from parallel_core.choices import Recompute
from parallel_core.plan import Plan

Block = Callable[..., Tensor]
"""Tensors, and at the end what is no tensor, to one tensor."""

Around = Callable[[], AbstractContextManager[None]]


class Units(Protocol):
    """A model of units by name."""

    @property
    def units(self) -> dict[str, nn.Module]:
        """The units that are here."""
        ...


def install(model: Units, plan: Plan, around: Around = nullcontext) -> None:
    """Have the layers that the plan names recompute. What a forward stands in when it is run,
    `around` gives to the second one as well."""
    for name, unit in model.units.items():
        kind = plan.recompute_in(name)
        layer: Any = unit
        if kind == Recompute.FULL and plan.ep > 1:
            experts = layer.moe.experts
            layer.attended = recomputed(layer.attended, around, weights=True)
            experts.forward = recomputed(experts.forward, around, weights=True)
        elif kind == Recompute.FULL:
            layer.forward = recomputed(layer.forward, around, weights=True)
        elif kind == Recompute.SELECTIVE:
            layer.attn.attend = recomputed(layer.attn.attend, around)


def recomputed(block: Block, around: Around = nullcontext, *, weights: bool = False) -> Block:
    """The block, run again by its own backward. Its last argument is passed on as it is.

    `weights` says whether the block holds weights, which then get their gradients as well.
    """
    apply: Callable[..., Tensor] = _Again.apply

    def run(*inputs: Any) -> Tensor:
        *tensors, place = inputs
        return apply(lambda *xs: block(*xs, place), around(), weights, *tensors)

    return run


class _Again(Function):
    @staticmethod
    def forward(
        ctx: Any, block: Block, again: AbstractContextManager[None], weights: bool, *xs: Tensor
    ) -> Tensor:
        ctx.block, ctx.again, ctx.weights = block, again, weights
        ctx.save_for_backward(*xs)
        return block(*xs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        xs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad(), ctx.again:
            y = ctx.block(*xs)
        if not ctx.weights:
            # a leaf's .grad may be laid out anew, and what sums over it would round differently
            return None, None, None, *torch.autograd.grad(y, xs, grads[0])
        torch.autograd.backward(y, grads[0])
        return None, None, None, *(x.grad for x in xs)

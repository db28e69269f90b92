"""Where a gradient lands when autograd has made it, and how large all of them are together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NORM_ROW = 1 << 12
"""Elements of a row whose squares are summed in one float32 sum."""


def settle_in(weight: nn.Parameter, view: Tensor) -> None:
    """Have every new gradient of a weight moved to `view`, its place in the flat buffer.

    Autograd calls it when the gradient has just been made: the copy finds it in the cache, and its
    memory serves the next one. Later microbatches accumulate in `view` itself, in place.
    """

    def move(weight: Tensor) -> None:
        if weight.grad is not view:
            assert weight.grad is not None
            view.copy_(weight.grad)
            weight.grad = view

    attach: Callable[..., Any] = weight.register_post_accumulate_grad_hook
    attach(move)


def norm_of(x: Tensor) -> Tensor:
    """The norm of x[N] in at least float32: of the norms of its rows, all in one call, since one
    float32 sum over millions of squares keeps four digits only."""
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = x.numel() // NORM_ROW
    body, rest = x[: rows * NORM_ROW].view(rows, NORM_ROW), x[rows * NORM_ROW :]
    norms = torch.linalg.vector_norm(body, dim=1, dtype=wide)
    last = torch.linalg.vector_norm(rest, dtype=wide)
    norm: Tensor = torch.linalg.vector_norm(torch.cat([norms, last[None]]).double())
    return norm


def move_on_arrival(weight: nn.Parameter, slots: dict[int, Tensor], filled: set[int]) -> None:
    """Have every new gradient of a weight moved to its place in the block of the moment, or added
    there. Both are by the weight's id; the hook must not know the kernels, which hold the weight.
    """

    def move(weight: nn.Parameter) -> None:
        slot, grad = slots[id(weight)], weight.grad
        assert grad is not None
        if id(weight) in filled:
            slot.add_(grad)
        else:
            slot.copy_(grad)
            filled.add(id(weight))
        weight.grad = None

    attach: Callable[..., Any] = weight.register_post_accumulate_grad_hook
    attach(move)

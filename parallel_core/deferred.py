"""The backward in two halves: I makes the input's gradient, W the weights'. Nothing is done twice.

Nouns. A *product* is where a weight meets an activation: a linear, the head, a router, a table's
look-up, experts' rows. A `Split` stands in for the products of one model. A forward turned *into* a
queue has a backward that is I: a product returns the input's gradient only and queues what the
weight's still needs. Running the queue is W. With no queue open the products are the model's own,
and so is the backward.

                 forward        I              W
    linear       y = x w' + b   dx = dy w      dw = dy' x    db = sum of dy over tokens
    table        y = w[ids]     -              dw[ids] += dy
    experts      y = x w[e]'    dx = dy w[e]   dw[e] = dy' x of its rows; without any, zero

Invariants. W holds x and dy of each product and no graph: what attention, norms, activation
functions and the loss had saved is free after I. Weights and biases of norms, a few vectors of
width D, get their gradient in I. A gradient handed to I stays untouched until W, which may hold
it. Autograd knows nothing of a queued weight: a missing gradient would call its hooks as well.
Splitting: Qi et al. 2023, arXiv:2401.10241.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from parallel_core.expert import grouped
from parallel_core.expert.grouped import Counts
from parallel_core.layers import Linear
from parallel_core.model import Head, Table
from parallel_core.moe import Experts, Router
from parallel_core.tensor.block import TensorHead

Grads = tuple[Tensor, ...]


@dataclass(frozen=True)
class Work:
    """The weight half of one product: `grads()` are the gradients of `leaves`, in order.

    `holds` are the activations it keeps until then, x and dy; token ids are none.
    """

    leaves: tuple[Tensor, ...]
    holds: tuple[Tensor, ...]
    grads: Callable[[], Grads]


@dataclass(eq=False)
class Deferred:
    """The weight halves that one microbatch's I left to its W, in the order of the backward."""

    work: list[Work] = field(default_factory=list)

    def __len__(self) -> int:
        """How many products still wait for their weight half."""
        return len(self.work)

    def run(self) -> None:
        """W: make every gradient and let autograd accumulate it, hooks and all; empties the queue.

        One call of autograd for all: a weight used twice gets the sum of both gradients at once, a
        weight without a gradient keeps the new one uncopied, and what was held is let go as soon
        as it is used.
        """
        accumulate: Callable[..., Tensor] = _Owed.apply
        # autograd starts from the root made last: the work queued last, most likely still in cache
        roots = [accumulate(work, *work.leaves) for work in self.work]
        self.work.clear()
        if roots:
            torch.autograd.backward(roots)

    def held_tensors(self) -> Iterator[Tensor]:
        """What W still needs; q, k and v name the same input three times."""
        for work in self.work:
            yield from work.holds

    @property
    def bytes(self) -> int:
        """Bytes of the storages that W still needs, each once."""
        storages = (tensor.untyped_storage() for tensor in self.held_tensors())
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


class Split:
    """The products of one model; a forward leaves its weight halves to the queue that is open."""

    def __init__(self) -> None:
        self.queue: Deferred | None = None
        self.root = torch.zeros((), requires_grad=True)  # so that a table's rows have a backward

    @contextmanager
    def into(self, queue: Deferred) -> Iterator[None]:
        """Forwards inside the block have a backward that is I: their W is `queue.run()`."""
        self.queue = queue
        try:
            yield
        finally:
            self.queue = None

    def again(self) -> AbstractContextManager[None]:
        """The same queue, or none, for a forward that is run again later."""
        return nullcontext() if self.queue is None else self.into(self.queue)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x[..., in], w[out, in], b[out] -> y[..., out]."""
        if not self.deferring() or self.queue is None:  # a layer that will be run again
            return F.linear(x, weight, bias)
        assert (
            x.requires_grad
        )  # it comes from a table or a norm; else no I would reach this product
        apply: Callable[..., Tensor] = _Linear.apply
        return apply(x, self.queue, (weight,) if bias is None else (weight, bias))

    def deferring(self) -> bool:
        """Whether a forward now leaves its weight halves to a queue."""
        return self.queue is not None and torch.is_grad_enabled()

    def grouped(self, x_ri: Tensor, w_eoi: Tensor, counts: Counts) -> Tensor:
        """x[R, in], w[E, out, in] -> y[R, out], rows expert by expert."""
        if not self.deferring() or self.queue is None:
            return grouped.product(x_ri, w_eoi, counts)
        assert x_ri.requires_grad  # though there may be no rows
        apply: Callable[..., Tensor] = _Grouped.apply
        return apply(x_ri, self.queue, (w_eoi,), counts)

    def look_up(self, ids: Tensor, weight: Tensor) -> Tensor:
        """ids[...] int64, w[rows, D] -> y[..., D]."""
        if self.queue is None:
            return F.embedding(ids, weight)
        apply: Callable[..., Tensor] = _LookUp.apply
        return apply(self.root, ids, self.queue, (weight,))


def install(model: nn.Module) -> Split:
    """Put a Split in the place of every product of `model`. Without it the model is torch's own."""
    split = Split()
    for module in model.modules():
        if isinstance(module, Linear | Head | TensorHead | Router):
            module.product = split.linear
        elif isinstance(module, Experts):
            module.product = split.grouped
            module.deferring = split.deferring
        elif isinstance(module, Table):
            module.look_up = split.look_up
    return split


class _Linear(Function):
    """A linear whose weights come in a tuple, where autograd does not look."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, queue: Deferred, leaves: tuple[Tensor, ...]) -> Tensor:
        ctx.save_for_backward(x, leaves[0])
        ctx.queue, ctx.leaves = queue, leaves
        return F.linear(x, *leaves)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (dy,), (x, weight) = grads, ctx.saved_tensors
        dy_no = dy.flatten(0, -2)  # once, since it copies where heads were transposed
        x_ni = x.detach().flatten(0, -2)  # detached, or W would hold the graph that made x
        ctx.queue.work.append(_linear_work(ctx.leaves, x_ni, dy_no))
        return (dy_no @ weight).view(x.shape), None, None


def _linear_work(leaves: tuple[Tensor, ...], x_ni: Tensor, dy_no: Tensor) -> Work:
    def grads() -> Grads:
        dw = dy_no.T @ x_ni
        return (dw,) if len(leaves) == 1 else (dw, dy_no.sum(0))

    return Work(leaves, (x_ni, dy_no), grads)


class _Grouped(Function):
    """Every expert's rows times that expert's matrix, whose gradient is left to W."""

    @staticmethod
    def forward(
        ctx: Any, x_ri: Tensor, queue: Deferred, leaves: tuple[Tensor, ...], counts: Counts
    ) -> Tensor:
        ctx.save_for_backward(x_ri, leaves[0])
        ctx.queue, ctx.leaves, ctx.counts = queue, leaves, counts
        return grouped.times(x_ri, leaves[0], counts)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (dy_ro,), (x_ri, w_eoi) = grads, ctx.saved_tensors
        dy_ro = dy_ro.contiguous()
        ctx.queue.work.append(_grouped_work(ctx.leaves, x_ri.detach(), dy_ro, ctx.counts))
        return grouped.back_to_rows(dy_ro, w_eoi, ctx.counts), None, None, None


def _grouped_work(leaves: tuple[Tensor, ...], x_ri: Tensor, dy_ro: Tensor, counts: Counts) -> Work:
    def grads() -> Grads:
        return (grouped.back_to_weights(dy_ro, x_ri, counts),)

    return Work(leaves, (x_ri, dy_ro), grads)


class _LookUp(Function):
    """A table's rows; `root` is there only because token ids can have no gradient."""

    @staticmethod
    def forward(
        ctx: Any, root: Tensor, ids: Tensor, queue: Deferred, leaves: tuple[Tensor, ...]
    ) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.queue, ctx.leaves = queue, leaves
        return F.embedding(ids, leaves[0])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (dy,), (ids,) = grads, ctx.saved_tensors
        ctx.queue.work.append(_look_up_work(ctx.leaves, ids, dy))
        return None, None, None, None


def _look_up_work(leaves: tuple[Tensor, ...], ids: Tensor, dy: Tensor) -> Work:
    rows = len(leaves[0])

    def grads() -> Grads:
        return (torch.ops.aten.embedding_dense_backward(dy, ids, rows, -1, False),)

    return Work(leaves, (dy,), grads)


class _Owed(Function):
    """A root from which autograd reaches `leaves` in one step: its backward makes the gradients."""

    @staticmethod
    def forward(ctx: Any, work: Work, *leaves: Tensor) -> Tensor:
        ctx.work = work
        return leaves[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        work, ctx.work = ctx.work, None
        return None, *work.grads()

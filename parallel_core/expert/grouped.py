"""Many matrix products in one: every expert's rows times that expert's matrix.

Shapes: R rows, expert by expert; E experts that are here; O out, I in features.

    y[R, O] = x[R, I] w[e]'      where row r belongs to expert e
    dx = dy w[e]                 dw[e] = the sum over its rows of dy' x, zero where it has none

A loop, one product an expert; y and dx on a GPU that has it by one kernel for all, dw by the loop
there too. An expert without rows stays in the graph: its gradient is zero, not absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Counts = Sequence[int]
"""Rows of each expert."""


def product(x_ri: Tensor, w_eoi: Tensor, counts: Counts) -> Tensor:
    """x[R, I], w[E, O, I] -> y[R, O]; ValueError if the counts are not those of the rows."""
    if len(counts) != len(w_eoi) or sum(counts) != len(x_ri):
        raise ValueError(
            f"{len(x_ri)} rows and {len(w_eoi)} experts, but {list(counts)} rows an expert"
        )
    return _Grouped.apply(x_ri, w_eoi, counts)  # type: ignore[no-untyped-call, no-any-return]  # torch's


def times(x_ri: Tensor, w_eoi: Tensor, counts: Counts) -> Tensor:
    """The product itself, without a gradient."""
    if one_kernel(x_ri, w_eoi):
        return _kernel(x_ri, w_eoi.mT, counts)
    y_ro = x_ri.new_empty((len(x_ri), w_eoi.shape[1]))
    for e, (start, stop) in enumerate(_bounds(counts)):
        torch.mm(x_ri[start:stop], w_eoi[e].T, out=y_ro[start:stop])
    return y_ro


def back_to_rows(dy_ro: Tensor, w_eoi: Tensor, counts: Counts) -> Tensor:
    """dx[R, I]."""
    if one_kernel(dy_ro, w_eoi):
        return _kernel(dy_ro, w_eoi, counts)
    dx_ri = dy_ro.new_empty((len(dy_ro), w_eoi.shape[2]))
    for e, (start, stop) in enumerate(_bounds(counts)):
        torch.mm(dy_ro[start:stop], w_eoi[e], out=dx_ri[start:stop])
    return dx_ri


def back_to_weights(dy_ro: Tensor, x_ri: Tensor, counts: Counts) -> Tensor:
    """dw[E, O, I]."""
    dw_eoi = x_ri.new_empty((len(counts), dy_ro.shape[1], x_ri.shape[1]))
    for e, (start, stop) in enumerate(_bounds(counts)):
        torch.mm(dy_ro[start:stop].T, x_ri[start:stop], out=dw_eoi[e])
    return dw_eoi


ALIGNED = 8
"""Elements to whose multiples the kernel wants rows to be long: 16 bytes of bfloat16."""


def one_kernel(x: Tensor, *weights: Tensor) -> bool:
    """Whether torch has one kernel for all experts' products of x[R, ...] with these weights."""
    if not (x.is_cuda and x.dtype == torch.bfloat16 and hasattr(torch, "_grouped_mm")):
        return False
    widths = (x.shape[-1], *(size for w in weights for size in w.shape[1:]))
    return len(x) > 0 and all(width % ALIGNED == 0 for width in widths)


def _kernel(x: Tensor, w: Tensor, counts: Counts) -> Tensor:
    ends = torch.tensor(list(accumulate(counts)), dtype=torch.int32, device=x.device)
    grouped: Any = torch._grouped_mm
    out: Tensor = grouped(x, w, offs=ends)
    return out


def _bounds(counts: Counts) -> list[tuple[int, int]]:
    ends = list(accumulate(counts))
    return [(end - count, end) for end, count in zip(ends, counts, strict=True)]


class _Grouped(Function):
    @staticmethod
    def forward(ctx: Any, x_ri: Tensor, w_eoi: Tensor, counts: Counts) -> Tensor:
        ctx.save_for_backward(x_ri, w_eoi)
        ctx.counts = counts
        return times(x_ri, w_eoi, counts)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (dy_ro,), (x_ri, w_eoi) = grads, ctx.saved_tensors
        dy_ro = dy_ro.contiguous()
        dx_ri = back_to_rows(dy_ro, w_eoi, ctx.counts) if ctx.needs_input_grad[0] else None
        return dx_ri, back_to_weights(dy_ro, x_ri, ctx.counts), None

"""Products that hide the messages which feed them (sequence parallelism only).   t = tp ranks

    gather_products   x[S/t] -> y_j = x[S] w_j'      a tile's product runs while the next arrives
        backward      x gathered again under dx = dy w;  dx scattered under dw = dy' x
    product_scatter   z = y w', then scattered
        backward      dy = dz w, tile by tile as dz[S/t] of the others arrives

The same messages as without overlap, in the same order and of the same bytes; the sums are cut
differently, so that results differ in the last bits. Wang et al. 2023, doi:10.1145/3567955.3567959;
the order of the backward is that of Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from parallel_core.tensor.conjugate import AXIS, Region

Pair = tuple[Tensor, Tensor | None]
"""A weight[F, D] and its bias[F], if it has one."""


def gather_products(x_bsd: Tensor, pairs: Sequence[Pair], region: Region) -> tuple[Tensor, ...]:
    """x[B, S/t, D], gathered along S, times each weight: y_j[B, S, F_j]."""
    apply: Callable[..., tuple[Tensor, ...]] = _GatherProducts.apply
    return apply(region, x_bsd, *(part for pair in pairs for part in pair))


def product_scatter(y_bsf: Tensor, weight_df: Tensor, region: Region) -> Tensor:
    """y[B, S, F/t] w' summed over the ranks and cut along S: z[B, S/t, D]."""
    apply: Callable[..., Tensor] = _ProductScatter.apply
    return apply(region, y_bsf, weight_df)


def _arriving(shard_sbd: Tensor, whole_sbd: Tensor, region: Region) -> Iterator[slice]:
    """The rows of every tile once it is there, the rank's own first."""
    rows = len(shard_sbd)
    for member in region.comm.all_gather_tiles(shard_sbd, AXIS, whole_sbd):
        yield slice(member * rows, (member + 1) * rows)


def _along_s(x_bsd: Tensor) -> Tensor:
    """[B, S, ...] -> [S, B, ...], contiguous: a rank's positions lie together."""
    return x_bsd.transpose(0, 1).contiguous()


def _room(like_sbd: Tensor, rows: int, width: int) -> Tensor:
    return like_sbd.new_empty((rows, like_sbd.shape[1], width))


class _GatherProducts(Function):
    @staticmethod
    def forward(ctx: Any, region: Region, x_bsd: Tensor, *flat: Tensor | None) -> Any:
        weights, biases = [w for w in flat[::2] if w is not None], flat[1::2]
        ctx.region, ctx.biased = region, [b is not None for b in biases]
        ctx.save_for_backward(x_bsd, *weights)
        shard = _along_s(x_bsd)
        rows = len(shard) * region.n
        whole = _room(shard, rows, shard.shape[-1])
        made = [_room(shard, rows, len(w)) for w in weights]
        for tile in _arriving(shard, whole, region):
            for y, w, b in zip(made, weights, biases, strict=True):
                product = torch.matmul(whole[tile], w.T)
                y[tile] = product if b is None else product.add_(b)
        return tuple(y.transpose(0, 1) for y in made)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        region: Region = ctx.region
        x_bsd, *weights = ctx.saved_tensors
        shard, dys = _along_s(x_bsd), [_along_s(dy) for dy in grads]
        whole = _room(shard, len(dys[0]), shard.shape[-1])
        arriving = _arriving(shard, whole, region)
        next(arriving)  # on its way from here on
        dx = torch.matmul(dys[0], weights[0])
        for dy, w in zip(dys[1:], weights[1:], strict=True):
            dx += torch.matmul(dy, w)
        for _ in arriving:
            pass
        scattered = region.comm.begin_reduce_scatter(dx, AXIS)
        x_nd = whole.flatten(0, 1)
        flat: list[Tensor | None] = []
        for dy, biased in zip(dys, ctx.biased, strict=True):
            dy_nf = dy.flatten(0, 1)
            flat += [dy_nf.T @ x_nd, dy_nf.sum(0) if biased else None]
        return None, scattered().transpose(0, 1), *flat


class _ProductScatter(Function):
    @staticmethod
    def forward(ctx: Any, region: Region, y_bsf: Tensor, weight_df: Tensor) -> Tensor:
        ctx.region = region
        ctx.save_for_backward(y_bsf, weight_df)
        return region.scattered(torch.matmul(y_bsf, weight_df.T))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        region: Region = ctx.region
        y_bsf, weight_df = ctx.saved_tensors
        shard = _along_s(grads[0])
        whole = _room(shard, len(shard) * region.n, shard.shape[-1])
        dy = _room(shard, len(whole), weight_df.shape[1])
        for tile in _arriving(shard, whole, region):
            dy[tile] = torch.matmul(whole[tile], weight_df)
        dw = whole.flatten(0, 1).T @ _along_s(y_bsf).flatten(0, 1)
        return None, dy.transpose(0, 1), dw

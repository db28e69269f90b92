"""All-gather KV: every rank gets all keys and values, then its queries attend as in one process.

    forward    all_gather kv[2, B, G, S/cp, K] -> [cp, 2, B, G, S/cp, K], then all tiles
    backward   the same gather again, since only the shard was kept; then
               reduce_scatter dkv[cp, 2, B, G, S/cp, K]+cp -> [2, B, G, S/cp, K]

The simplest to reason about: one message, before the first tile. It cannot hide behind the tiles,
and for a moment a rank holds the keys of the whole sequence; with few key/value heads (GQA) that
is little. Grattafiori et al. 2024, Llama 3, arXiv:2407.21783, section 3.3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from parallel_core.context.context import Context
from parallel_core.context.layout import AXIS
from parallel_core.context.merge import Running
from parallel_core.context.tile import Queries, backward_into


def attention(q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, context: Context) -> Tensor:
    """q[B, H, S/cp, K], k and v[B, G, S/cp, K] -> a[B, H, S/cp, K]; padding gives zeros."""
    apply: Callable[..., Tensor] = _GatherKV.apply
    return apply(q_bhsk, k_bgtk, v_bgtk, context)


class _GatherKV(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        kv = _everybodys(torch.stack((k, v)), context)
        running = Running(q, context.summed_in(q.dtype))
        with context.noting("tile"):
            for hop in range(context.n):
                factors = context.factors(hop, q)
                running.meet(q, kv[context.source(hop)], context.tiles(hop), factors)
        a = running.out_bhsk.to(q.dtype)
        ctx.context = context
        ctx.save_for_backward(q, k, v, a, running.lse_bhs)
        return a

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        context: Context = ctx.context
        q, k, v, a, lse = ctx.saved_tensors
        queries, kv = Queries(q, a, grads[0], lse), _everybodys(torch.stack((k, v)), context)
        summed = context.summed_in(q.dtype)
        dq, dkv = torch.zeros_like(q, dtype=summed), torch.zeros_like(kv, dtype=summed)
        with context.noting("tile"):
            for hop in range(context.n):
                source, factors = context.source(hop), context.factors(hop, q)
                kv_there, dkv_there = kv[source], dkv[source]
                for tile in context.tiles(hop):
                    backward_into(queries, kv_there, tile, dq=dq, dkv=dkv_there, factors=factors)
        dk, dv = _own_sum(dkv, context)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None


def _everybodys(kv: Tensor, context: Context) -> Tensor:
    """kv[2, B, G, T, K] -> [cp, 2, B, G, T, K]."""
    if context.n == 1:
        return kv[None]
    with context.noting("kv"):
        whole = context.comm.all_gather(kv, AXIS, name="kv")
    return whole.view(context.n, *kv.shape)


def _own_sum(dkv: Tensor, context: Context) -> Tensor:
    """dkv[cp, 2, B, G, T, K]+cp -> [2, B, G, T, K]."""
    if context.n == 1:
        return dkv[0]
    with context.noting("dkv"):
        return context.comm.reduce_scatter(dkv.flatten(0, 1), AXIS, name="dkv")

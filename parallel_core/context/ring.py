"""Ring attention: queries stay at home, keys and values go round, a hop between any two tiles.

    n=3     hop 0          hop 1          hop 2
    r0      q0 x kv0       q0 x kv2       q0 x kv1
    r1      q1 x kv1       q1 x kv0       q1 x kv2
    r2      q2 x kv2       q2 x kv1       q2 x kv0

    forward    n-1 hops of kv[2, B, G, S/n, K]; results are merged by their log-sum-exp
    backward   kv goes round again, and behind it dkv: at hop i a rank adds its part to the
               gradient of the kv it has just used, and passes it on. After n hops, one more than
               kv makes, every gradient is back where its kv lives

Contiguous and zigzag are the same ring: which tiles a pair of blocks has, layout.py says. The next
hop is posted before this hop's tiles and waited for after them. What the forward keeps is q, k, v,
the result and its lse, as one process does. Liu et al. 2023, arXiv:2310.01889.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from parallel_core.context.context import Context
from parallel_core.context.merge import Running
from parallel_core.context.tile import Queries, backward_into


def attention(q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, context: Context) -> Tensor:
    """q[B, H, S/cp, K], k and v[B, G, S/cp, K] -> a[B, H, S/cp, K]; padding gives zeros."""
    apply: Callable[..., Tensor] = _Ring.apply
    return apply(q_bhsk, k_bgtk, v_bgtk, context)


class _Ring(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        kv = torch.stack((k, v))
        running = Running(q, context.summed_in(q.dtype))
        last = context.layout.rings - 1
        for hop in range(last + 1):
            coming = context.pass_on(kv, "kv") if hop < last else None
            with context.noting("tile"):
                running.meet(q, kv, context.tiles(hop), context.factors(hop, q))
            if coming is not None:
                kv = coming.wait()
        a = running.out_bhsk.to(q.dtype)
        ctx.context = context
        ctx.save_for_backward(q, k, v, a, running.lse_bhs)
        return a

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        context: Context = ctx.context
        q, k, v, a, lse = ctx.saved_tensors
        queries, kv = Queries(q, a, grads[0], lse), torch.stack((k, v))
        summed = context.summed_in(q.dtype)
        dq, last, behind = torch.zeros_like(q, dtype=summed), context.layout.rings - 1, None
        for hop in range(last + 1):
            coming = context.pass_on(kv, "kv") if hop < last else None
            dkv = torch.zeros_like(kv, dtype=summed)
            with context.noting("tile"):
                factors = context.factors(hop, q)
                for tile in context.tiles(hop):
                    backward_into(queries, kv, tile, dq=dq, dkv=dkv, factors=factors)
            if behind is not None:
                dkv += behind.wait()  # what the ranks before have found for the same kv
            behind = context.pass_on(dkv, "dkv")
            if coming is not None:
                kv = coming.wait()
        assert behind is not None
        dk, dv = behind.wait()  # home
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None

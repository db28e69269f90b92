"""Pass-Q: keys and values stay at home, queries go round and leave what they found behind.

    n=3     hop 0          hop 1          hop 2          then
    r0      q0 x kv0       q2 x kv0       q1 x kv0       results for q1, q2 go home
    r1      q1 x kv1       q0 x kv1       q2 x kv1
    r2      q2 x kv2       q1 x kv2       q0 x kv2

    forward    n-1 hops of q[B, H, S/n, K]; all_to_all of (a, lse)[n, B, H, S/n, K+1], merged
    backward   n-1 hops of (q, a, da)[3, B, H, S/n, K] and lse; dk and dv are complete without a
               message, since all queries have been here; all_to_all of dq[n, B, H, S/n, K], summed

It pays where queries are few: a few new tokens after a long cached prompt (crossover.py). The
all-to-all is not hidden by any tile. Forward: Yang et al. 2024, arXiv:2411.01783; the backward is
its mirror image, which serving does not need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from parallel_core.context.context import Context
from parallel_core.context.layout import AXIS, Travels
from parallel_core.context.merge import Running
from parallel_core.context.tile import Queries, backward_into


def attention(q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, context: Context) -> Tensor:
    """q[B, H, S/cp, K], k and v[B, G, S/cp, K] -> a[B, H, S/cp, K]; padding gives zeros."""
    apply: Callable[..., Tensor] = _PassQ.apply
    return apply(q_bhsk, k_bgtk, v_bgtk, context)


class _PassQ(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        kv, summed, guest = torch.stack((k, v)), context.summed_in(q.dtype), q.contiguous()
        found = q.new_empty((context.n, *q.shape[:3], q.shape[3] + 1), dtype=summed)
        for hop in range(context.n):
            coming = context.pass_on(guest, "q") if hop < context.n - 1 else None
            with context.noting("tile"):
                running = Running(guest, summed)
                factors = context.factors(hop, q, Travels.Q)
                running.meet(guest, kv, context.tiles(hop, Travels.Q), factors)
            found[context.source(hop)] = _with_lse(running)
            if coming is not None:
                guest = coming.wait()
        running = _merged(_home(found, "a_lse", context), q, context)
        a = running.out_bhsk.to(q.dtype)
        ctx.context = context
        ctx.save_for_backward(q, k, v, a, running.lse_bhs)
        return a

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        context: Context = ctx.context
        q, k, v, a, lse = ctx.saved_tensors
        kv, guest = torch.stack((k, v)), torch.stack((q, a, grads[0]))
        summed = context.summed_in(q.dtype)
        dkv = torch.zeros_like(kv, dtype=summed)
        found = q.new_zeros((context.n, *q.shape), dtype=summed)
        for hop in range(context.n):
            coming = None
            if hop < context.n - 1:
                coming = context.pass_on(guest, "q_a_da"), context.pass_on(lse, "lse")
            with context.noting("tile"):
                guests = Queries(guest[0], guest[1], guest[2], lse)
                dq, factors = found[context.source(hop)], context.factors(hop, q, Travels.Q)
                for tile in context.tiles(hop, Travels.Q):
                    backward_into(guests, kv, tile, dq=dq, dkv=dkv, factors=factors)
            if coming is not None:
                guest, lse = (message.wait() for message in coming)
        dq = _home(found, "dq", context).sum(0)
        return dq.to(q.dtype), *(d.to(k.dtype) for d in dkv), None


def _with_lse(running: Running) -> Tensor:
    """(a, lse)[B, H, S, K+1]."""
    return torch.cat((running.out_bhsk, running.lse_bhs[..., None]), dim=-1)


def _home(found: Tensor, what: str, context: Context) -> Tensor:
    """all_to_all: found[i] goes to rank i, and what others found for this one comes."""
    if context.n == 1:
        return found
    ones = [1] * context.n
    with context.noting(what):
        return context.comm.all_to_all(found, AXIS, ones, ones)


def _merged(came: Tensor, q: Tensor, context: Context) -> Running:
    """What every rank found for this one's queries, by the rows that had keys there."""
    running = Running(q, came.dtype)
    for source, part in enumerate(came):
        rows = context.layout.rows(context.me, source, context.causal)
        at = slice(rows.start, rows.stop)
        running.add(rows, part[:, :, at, :-1], part[:, :, at, -1])
    return running

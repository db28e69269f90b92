"""Ulysses: for the time of attention, trade a part of the sequence for a part of the heads.

    all_to_all   q[B, H, S/u, K] -> q[B, H/u, S, K]       k, v likewise, in the same message
    attend       each rank its heads over the whole sequence: no message
    all_to_all   a[B, H/u, S, K] -> a[B, H, S/u, K]

The backward of each all-to-all is the other one. It needs heads for everyone: u <= H. Where there
are fewer key/value heads than ranks, u/G neighbours get a copy of one, and its gradient is the sum
of theirs. Jacobs et al. 2023, DeepSpeed-Ulysses, arXiv:2309.14509.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from parallel_core.context import ring
from parallel_core.context.context import Context
from parallel_core.context.tile import wide
from parallel_core.context.traffic import check_heads


def attention(q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, context: Context) -> Tensor:
    """q[B, H, S/cp, K], k and v[B, G, S/cp, K] -> a[B, H, S/cp, K]; padding gives zeros.

    ValueError if some ranks of cp are outside the exchange: that is hybrid.py.
    """
    if context.layout.rings > 1:
        raise ValueError(f"ulysses takes all {context.n} ranks of cp; choose hybrid for a ring")
    q, k, v = to_heads(q_bhsk, k_bgtk, v_bgtk, context)
    return to_sequence(ring.attention(q, k, v, context), context)  # a ring of one: no message


def to_heads(
    q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, context: Context
) -> tuple[Tensor, Tensor, Tensor]:
    """q[B, H, S/u, K] -> [B, H/u, S, K]; k, v[B, G, S/u, K] -> [B, G/u or 1, S, K]."""
    if context.layout.ulysses == 1:
        return q_bhsk, k_bgtk, v_bgtk
    check_heads(q_bhsk.shape[1], k_bgtk.shape[1], context.layout.ulysses)
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _ToHeads.apply
    return apply(q_bhsk, k_bgtk, v_bgtk, context)


def to_sequence(a_bhsk: Tensor, context: Context) -> Tensor:
    """a[B, H/u, S, K] -> [B, H, S/u, K]."""
    if context.layout.ulysses == 1:
        return a_bhsk
    apply: Callable[..., Tensor] = _ToSequence.apply
    return apply(a_bhsk, context)


class _ToHeads(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, context: Context
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.context, ctx.kv_heads = context, k.shape[1]
        u = context.layout.ulysses
        q_u, k_u, v_u = _by_heads(q, u), *(_by_heads(_copies(x, u), u) for x in (k, v))
        q_u, k_u, v_u = _swap((q_u, k_u, v_u), "qkv", context)
        old = context.layout.cached_share
        return _joined(q_u, 0), _joined(k_u, old), _joined(v_u, old)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        context: Context = ctx.context
        u, old = context.layout.ulysses, context.layout.cached_share
        parts = [_parted(d, u, cached) for d, cached in zip(grads, (0, old, old), strict=True)]
        dq, dk, dv = (came.transpose(0, 1).flatten(1, 2) for came in _swap(parts, "dqkv", context))
        return dq, *(_sum_of_copies(d, ctx.kv_heads) for d in (dk, dv)), None


class _ToSequence(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, context: Context) -> Tensor:
        ctx.context = context
        (a_u,) = _swap((_parted(a, context.layout.ulysses, 0),), "a", context)
        return a_u.transpose(0, 1).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        context: Context = ctx.context
        (da_u,) = _swap((_by_heads(grads[0], context.layout.ulysses),), "da", context)
        return _joined(da_u, 0), None


def _swap(parts: Any, what: str, context: Context) -> list[Tensor]:
    """all_to_all: row i of each part goes to rank i; all parts in one message."""
    rows = torch.cat([part.flatten(1) for part in parts], dim=1)
    ones = [1] * len(rows)
    with context.noting(what):
        came = context.comm.all_to_all(rows, context.heads_axis, ones, ones)
    sizes = [part[0].numel() for part in parts]
    columns = torch.split(came, sizes, 1)
    return [x.reshape(part.shape) for x, part in zip(columns, parts, strict=True)]


def _by_heads(x_bhsk: Tensor, u: int) -> Tensor:
    """x[B, H, S, K] -> [u, B, H/u, S, K]: the heads of each rank."""
    batch, heads, *rest = x_bhsk.shape
    return x_bhsk.reshape(batch, u, heads // u, *rest).transpose(0, 1)


def _copies(x_bgtk: Tensor, u: int) -> Tensor:
    """x[B, G, T, K] with each head as often as ranks read it, once if there are enough."""
    return x_bgtk.repeat_interleave(max(u // x_bgtk.shape[1], 1), dim=1)


def _sum_of_copies(d_bctk: Tensor, kv_heads: int) -> Tensor:
    """The gradient of each head, from those of its copies."""
    batch, copies, *rest = d_bctk.shape
    each = d_bctk.reshape(batch, kv_heads, copies // kv_heads, *rest)
    return each.sum(2, dtype=wide(d_bctk.dtype)).to(d_bctk.dtype)


def _joined(x_ubhsk: Tensor, cached: int) -> Tensor:
    """x[u, B, H, S/u, K] -> [B, H, S, K]; the first `cached` positions of each come first."""
    old, new = x_ubhsk[:, :, :, :cached], x_ubhsk[:, :, :, cached:]
    return torch.cat([x.movedim(0, 2).flatten(2, 3) for x in (old, new)], dim=2)


def _parted(x_bhsk: Tensor, u: int, cached: int) -> Tensor:
    """What `_joined` has joined: x[B, H, S, K] -> [u, B, H, S/u, K]."""
    old, new = x_bhsk[:, :, : cached * u], x_bhsk[:, :, cached * u :]
    parts = [
        x.reshape(*x.shape[:2], u, x.shape[2] // u, x.shape[3]).movedim(2, 0) for x in (old, new)
    ]
    return torch.cat(parts, dim=3)

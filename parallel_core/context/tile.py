"""One tile of attention: some queries against some keys, with the log of the sum of its weights.

Shapes: B batch, S queries, T keys, H query heads, G key/value heads, K head width.

    forward    a[B, H, S, K] = softmax(q k' / sqrt K) v,  lse[B, H, S] = log sum exp(q k' / sqrt K)
    backward   p = exp(q k' / sqrt K - lse), with the lse of *all* keys: p is this tile's part of
               the whole row's weights, and so are the dq, dk, dv computed from it

The softmax of a tile is of that tile alone; lse is what merge.py needs to weigh it against others.
With dropout each weight is multiplied by a factor m[B, H, S, T], 0 or 1/(1 - share), after the
softmax: a = (m p) v, and the lse is of the weights as they were.
Query head h reads key/value head h // (H/G). bfloat16 is computed in float32: a tile's result is
one term of a sum and is rounded once, at the end of it. Dao 2023, FlashAttention-2,
arXiv:2307.08691, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel_core.context.layout import Tile

# torch's kernels for the CPU: they keep no scores, and return the lse
_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

Factors = Callable[[Tile], Tensor]
"""What dropout multiplies the weights of a tile by: m[B, H, S, T]."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 for what is narrower, else the type itself."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True)
class Queries:
    """What the backward must know of some queries: with what came out of all their keys.

    q, a and da [B, H, S, K], lse [B, H, S].
    """

    q: Tensor
    a: Tensor
    da: Tensor
    lse: Tensor

    def of(self, rows: range) -> Queries:
        """Those of some rows."""
        at = slice(rows.start, rows.stop)
        q, a, da = (x[:, :, at] for x in (self.q, self.a, self.da))
        return Queries(q, a, da, self.lse[:, :, at])


def attend(
    q_bhsk: Tensor,
    k_bgtk: Tensor,
    v_bgtk: Tensor,
    *,
    diagonal: bool,
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """a[B, H, S, K] and lse[B, H, S] of one tile, in float32 or wider."""
    q, k, v = _grouped(q_bhsk, k_bgtk, v_bgtk)
    if q.device.type == "cpu" and factor is None:
        a, lse = _fused(q, k, v, 0.0, diagonal)
    else:
        a, lse = written_out(q, k, v, diagonal, _like(factor, q))
    return a.reshape(q_bhsk.shape), lse.reshape(q_bhsk.shape[:3])


def attend_backward(
    queries: Queries,
    k_bgtk: Tensor,
    v_bgtk: Tensor,
    *,
    diagonal: bool,
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq[B, H, S, K], dk and dv[B, G, T, K] from one tile, in float32 or wider."""
    q, k, v = _grouped(queries.q, k_bgtk, v_bgtk)
    a, da = (x.to(q.dtype).reshape(q.shape) for x in (queries.a, queries.da))
    lse = queries.lse.to(q.dtype).reshape(q.shape[:3])
    if q.device.type == "cpu" and factor is None:
        dq, dk, dv = _fused_backward(da, q, k, v, a, lse, 0.0, diagonal)
    else:
        each = Queries(q, a, da, lse)
        dq, dk, dv = written_out_backward(each, k, v, diagonal, _like(factor, q))
    # every query head of a group has its own gradient of the head they share
    return dq.reshape(queries.q.shape), *(d.sum(1).reshape(k_bgtk.shape) for d in (dk, dv))


def written_out(
    q: Tensor, k: Tensor, v: Tensor, diagonal: bool, factor: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """a and lse by the formula, with all scores in memory: for dropout, and for devices other than
    the CPU."""
    scores = _scores(q, k, diagonal)
    lse = torch.logsumexp(scores, dim=-1)
    p = torch.exp(scores - lse[..., None])
    return _times(p, factor) @ v, lse


def written_out_backward(
    queries: Queries, k: Tensor, v: Tensor, diagonal: bool, factor: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv by the formula; rows of p sum to less than 1 where there are other tiles."""
    q, da = queries.q, queries.da
    p = torch.exp(_scores(q, k, diagonal) - queries.lse[..., None])
    inner = (da * queries.a).sum(-1, keepdim=True)  # of the whole row, like lse
    ds = p * (_times(da @ v.mT, factor) - inner) / math.sqrt(q.shape[-1])
    return ds @ k, ds.mT @ q, _times(p, factor).mT @ da


def backward_into(
    queries: Queries,
    kv: Tensor,
    tile: Tile,
    *,
    dq: Tensor,
    dkv: Tensor,
    factors: Factors | None = None,
) -> None:
    """Add what one tile contributes to dq[B, H, S, K] and dkv[2, B, G, T, K]."""
    at, cols = slice(tile.rows.start, tile.rows.stop), slice(tile.cols.start, tile.cols.stop)
    k, v = kv[:, :, :, cols]
    factor = factors(tile) if factors else None
    more = attend_backward(queries.of(tile.rows), k, v, diagonal=tile.diagonal, factor=factor)
    dq[:, :, at] += more[0]
    dkv[0, :, :, cols] += more[1]
    dkv[1, :, :, cols] += more[2]


def _grouped(q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As [BG, H/G, ...] each, widened: a key/value head is looked at H/G times and not copied."""
    batch, heads, s, width = q_bhsk.shape
    groups, t = k_bgtk.shape[1:3]
    each, dtype = heads // groups, wide(q_bhsk.dtype)
    q = q_bhsk.to(dtype).reshape(batch * groups, each, s, width)
    k, v = (
        x.to(dtype).reshape(batch * groups, 1, t, width).expand(-1, each, -1, -1)
        for x in (k_bgtk, v_bgtk)
    )
    return q, k, v


def _like(factor_bhst: Tensor | None, q: Tensor) -> Tensor | None:
    """The factors grouped and widened as `q` is."""
    return None if factor_bhst is None else factor_bhst.to(q.dtype).reshape(*q.shape[:3], -1)


def _times(weights: Tensor, factor: Tensor | None) -> Tensor:
    return weights if factor is None else weights * factor


def _scores(q: Tensor, k: Tensor, diagonal: bool) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if diagonal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores

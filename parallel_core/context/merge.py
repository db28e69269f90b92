"""Attention over several tiles, one after the other: each result is weighed by its share of exp.

    softmax over two sets of keys, from the softmax over each (a, b) and their lse:

        w    = exp(lse_b) / (exp(lse_a) + exp(lse_b))  = sigmoid(lse_b - lse_a)
        out  = a - w (a - b)
        lse  = log(exp(lse_a) + exp(lse_b))

No number larger than the largest score is ever formed. The sum is kept in float32 or wider: in
bfloat16 each merge rounds what all the merges before it have found, and the error grows with the
ring. What the first tile has found is not merged with the nothing before it: it *is* the sum.
Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from parallel_core.context.layout import Tile
from parallel_core.context.tile import Factors, attend


class Running:
    """The attention of q[B, H, S, K] to the keys met so far: out[B, H, S, K] and lse[B, H, S].

    Rows that have met no key are 0, with an lse of minus infinity.
    """

    def __init__(self, q_bhsk: Tensor, dtype: torch.dtype) -> None:
        self.out_bhsk = torch.zeros_like(q_bhsk, dtype=dtype, memory_format=torch.contiguous_format)
        self.lse_bhs = torch.full(q_bhsk.shape[:3], -math.inf, dtype=dtype, device=q_bhsk.device)
        self._empty = True

    def add(self, rows: range, out: Tensor, lse: Tensor) -> None:
        """Merge what these rows found among other keys."""
        at = slice(rows.start, rows.stop)
        if self._empty:
            self.out_bhsk[:, :, at], self.lse_bhs[:, :, at] = out, lse
            self._empty = False
            return
        mine, before = self.out_bhsk[:, :, at], self.lse_bhs[:, :, at]
        out, lse = out.to(mine.dtype), lse.to(before.dtype)
        weight = torch.sigmoid(lse - before)[..., None]
        mine -= weight * (mine - out)
        before.copy_(torch.logaddexp(before, lse))

    def meet(
        self,
        q_bhsk: Tensor,
        kv: Tensor,
        tiles: tuple[Tile, ...],
        factors: Factors | None = None,
    ) -> None:
        """Attend to tiles of kv[2, B, G, T, K], and merge."""
        for tile in tiles:
            rows, cols = (slice(side.start, side.stop) for side in (tile.rows, tile.cols))
            k, v = kv[:, :, :, cols]
            factor, q = factors(tile) if factors else None, q_bhsk[:, :, rows]
            self.add(tile.rows, *attend(q, k, v, diagonal=tile.diagonal, factor=factor))

"""Causal self-attention with grouped key/value heads, and rotary positions.

Shapes: B batch, S sequence (T as keys), D model, H query heads, G key/value heads, K = D/H.

    q  x[B, S, D] -> [B, H, S, K]        query head h reads key/value head h // (H/G)
    k  x[B, S, D] -> [B, G, T, K]        G = H is multi-head, G = 1 multi-query attention
    v  x[B, S, D] -> [B, G, T, K]
    o  softmax(q k' / sqrt K) v -> [B, S, D]

Attention: Vaswani et al. 2017, arXiv:1706.03762. Grouped: Ainslie et al. 2023, arXiv:2305.13245.
Rotary: Su et al. 2021, arXiv:2104.09864, in the half-split order of the Llama checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallel_core.dropout import Place, dropout, grid, kept
from parallel_core.layers import Linear
from parallel_core.plan import Dialect, Plan

ROPE_THETA = 10000.0


class Attention(nn.Module):
    """Attention of one layer. Parameters: q, k, v, o, with biases in the gpt dialect.

    `first_head` is the number of the first head that is here, 0 where all are.
    """

    first_head = 0

    def __init__(self, plan: Plan, name: str) -> None:
        super().__init__()
        m = plan.model
        self.plan, self.name, self.head_dim = plan, name, m.head_dim
        self.rotary = m.dialect == Dialect.LLAMA
        kv = m.kv * m.head_dim
        self.q = Linear(plan, m.hidden, m.hidden)
        self.k = Linear(plan, kv, m.hidden)
        self.v = Linear(plan, kv, m.hidden)
        self.o = Linear(plan, m.hidden, m.hidden)

    def forward(self, x_bsd: Tensor, place: Place) -> Tensor:
        """x[B, S, D] -> [B, S, D], before it is added to the residual stream."""
        q_bhsk, k_bgtk, v_bgtk = map(self._heads, self.into(x_bsd))
        if self.rotary:
            q_bhsk = rotate(q_bhsk, place.positions)
            k_bgtk = rotate(k_bgtk, place.positions)
        a_bhsk = self.attend(q_bhsk, k_bgtk, v_bgtk, place)
        out: Tensor = self.o(a_bhsk.transpose(1, 2).flatten(2))
        return out

    def into(self, x_bsd: Tensor) -> tuple[Tensor, ...]:
        """x[B, S, D] -> q[B, S, H·K], k and v[B, S, G·K]."""
        return self.q(x_bsd), self.k(x_bsd), self.v(x_bsd)

    def _heads(self, x_bsd: Tensor) -> Tensor:
        return x_bsd.view(*x_bsd.shape[:2], -1, self.head_dim).transpose(1, 2)

    def attend(self, q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, place: Place) -> Tensor:
        """softmax(q k' / sqrt K) v, causal: what selective recomputation runs again."""
        if self.plan.model.fused:
            return F.scaled_dot_product_attention(
                q_bhsk, k_bgtk, v_bgtk, is_causal=True, enable_gqa=True
            )
        return self._written_out(q_bhsk, k_bgtk, v_bgtk, place)

    def _written_out(self, q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, place: Place) -> Tensor:
        """The formula step by step, its scores in memory.

        Query heads that share a key/value head stand one below the other, so that none is copied.
        The mask is added: what is added need not be kept.
        """
        at, shared = place.positions, k_bgtk.shape[:2]
        scores = q_bhsk.reshape(*shared, -1, self.head_dim) @ k_bgtk.mT / math.sqrt(self.head_dim)
        later_st = at[:, None] < at[None, :]
        mask_st = scores.new_zeros(later_st.shape).masked_fill(later_st, -math.inf)
        p_bhst = torch.softmax(scores.view(*q_bhsk.shape[:3], -1) + mask_st, dim=-1)
        p_bhst = self._drop(p_bhst, place)
        return (p_bhst.view(*scores.shape) @ v_bgtk).view(q_bhsk.shape)

    def _drop(self, p_bhst: Tensor, place: Place) -> Tensor:
        if self.plan.model.dropout == 0:
            return p_bhst
        at, heads = place.positions, range(p_bhst.shape[1])
        index = self._numbered(place, heads, at, at)
        return dropout(p_bhst, self.plan.model.dropout, self._site, place, index)

    def factor(
        self, place: Place, heads: range, rows: Sequence[int], cols: Sequence[int]
    ) -> Tensor:
        """What dropout multiplies weights by, 0 or 1/(1 - p): float64 [B, H, S, T].

        Of some of the heads that are here, of the queries and keys that stand at these positions.
        """
        to = place.positions.device
        at = (torch.tensor(side, device=to) for side in (rows, cols))
        index, p = self._numbered(place, heads, *at), self.plan.model.dropout
        return kept(p, self._site, place, index).double() / (1 - p)

    @property
    def _site(self) -> str:
        return f"{self.name}.probs"

    def _numbered(self, place: Place, heads: range, rows: Tensor, cols: Tensor) -> Tensor:
        """The global index of every weight between them, int64 [B, H, S, T]."""
        m, seq = self.plan.model, self.plan.seq
        here = torch.tensor(heads, device=rows.device) + self.first_head
        return grid((place.rows, self.plan.global_batch), (here, m.heads), (rows, seq), (cols, seq))


def rotate(x_bhsk: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions: element i of a head pairs with i + K/2 and turns by position/theta^(2i/K).

    The angles are float32 whatever the dtype of `x`, as in the published Llama code: a model
    trained here gives the same numbers there.
    """
    width = x_bhsk.shape[-1]
    even = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device)
    speed_k = 1 / ROPE_THETA ** (even / width)
    angle_sk = (positions[:, None].float() * speed_k).repeat(1, 2)
    first, second = x_bhsk.chunk(2, dim=-1)
    turned_bhsk = torch.cat((-second, first), dim=-1)
    return x_bhsk * angle_sk.cos().to(x_bhsk.dtype) + turned_bhsk * angle_sk.sin().to(x_bhsk.dtype)

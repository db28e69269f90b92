"""A block as a reader might bring it: attention and a convolution over time, side by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Nothing of it is the lab's; all it knows are three sizes of the model."""

    def __init__(self, hidden: int, heads: int, seq: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden, bias=False)
        self.conv = nn.Conv1d(hidden, hidden, 3, groups=hidden)
        self.gain = nn.Parameter(torch.full((hidden,), 0.5))
        self.register_buffer("fade", torch.linspace(1.0, 0.5, seq).view(seq, 1))

    def forward(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D] -> [B, S, D]."""
        b, s, d = x_bsd.shape
        h = self.norm(x_bsd)
        q, k, v = (t.view(b, s, self.heads, -1).transpose(1, 2) for t in self.qkv(h).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        c = self.conv(F.pad(h.transpose(1, 2), (2, 0))).transpose(1, 2)
        return x_bsd + self.out(a.reshape(b, s, d)) + self.gain * F.silu(c) * self.fade[:s]

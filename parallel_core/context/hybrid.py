"""Ulysses inside, a ring around it: u ranks share a block of the sequence, and deal out the heads.

    cp = 4, u = 2      ring ->          r0 r1 hold block 0, r2 r3 block 1
              u   r0 ........ r2        r0 and r2 compute the first half of the heads
                  r1 ........ r3        r1 and r3 the other

    all_to_all    q[B, H, S/cp, K] -> [B, H/u, S/ring, K], among the u neighbours; k, v likewise
    ring          of cp/u members, over H/u heads
    all_to_all    a back to [B, H, S/cp, K]

More ranks than heads, and fewer hops than a ring of them all: the all-to-alls belong on the fast
links of a node. Fang and Zhao 2024, USP, arXiv:2405.07719.
"""

from __future__ import annotations

from torch import Tensor

from parallel_core.context import ring
from parallel_core.context.context import Context
from parallel_core.context.ulysses import to_heads, to_sequence


def attention(q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, context: Context) -> Tensor:
    """q[B, H, S/cp, K], k and v[B, G, S/cp, K] -> a[B, H, S/cp, K]; padding gives zeros."""
    q, k, v = to_heads(q_bhsk, k_bgtk, v_bgtk, context)
    return to_sequence(ring.attention(q, k, v, context), context)

"""The layers by method: the same table as METHODS, with torch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from parallel_core.context import gather_kv, hybrid, pass_q, ring, ulysses
from parallel_core.context.context import Context

Layer = Callable[[Tensor, Tensor, Tensor, Context], Tensor]

LAYERS: dict[str, Layer] = {
    "allgather": gather_kv.attention,
    "ring": ring.attention,
    "zigzag": ring.attention,
    "pass-q": pass_q.attention,
    "ulysses": ulysses.attention,
    "hybrid": hybrid.attention,
}


def attention(q_bhsk: Tensor, k_bgtk: Tensor, v_bgtk: Tensor, context: Context) -> Tensor:
    """q[B, H, S/cp, K], k and v[B, G, S/cp, K] -> a[B, H, S/cp, K], by the context's method.

    Rows are the rank's positions (`layout.positions`); padding gives zeros, and gets no gradient.
    Keys and values may be longer than queries: cached ones come first.
    """
    return LAYERS[context.method](q_bhsk, k_bgtk, v_bgtk, context)

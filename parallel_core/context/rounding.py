"""How far a bfloat16 ring is from the truth, by its size and by the type that its sums are kept in.

    one process plays n members in turn, hop by hop, tile by tile, merging as merge.py does and
    passing dkv on as ring.py does; the truth is float64 over the whole sequence

Each merge rounds what all the merges before it have found. In float32 that is nothing beside the
rounding of the bfloat16 result itself; in bfloat16 the error grows with every member of the ring.
Full mask, so that every member meets every block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parallel_core.context.layout import Layout
from parallel_core.context.merge import Running
from parallel_core.context.tile import Queries, attend, attend_backward, backward_into

if TYPE_CHECKING:
    from parallel_core.rank import Rank

KEPT = ("float32", "bfloat16")
"""Types of the sums that are compared; the model is bfloat16."""

SIZES = (1, 2, 4, 8, 16, 32)
"""Ranks of the rings."""

Whole = tuple[Tensor, Tensor, Tensor, Tensor]
"""a, dq [B, H, S, K], dk and dv [B, G, S, K] of the whole sequence."""


@dataclass(frozen=True, kw_only=True)
class Error:
    """One ring: the root mean square of its error over that of the true values, by tensor."""

    kept: str
    ranks: int
    a: float
    dq: float
    dk: float
    dv: float


def errors(
    sizes: Sequence[int] = SIZES, *, seq: int = 1024, heads: int = 2, width: int = 32, seed: int = 0
) -> Iterator[Error]:
    """Every ring size, with its sums in each type; the largest size must divide `seq`."""
    whole = drawn(seq, heads, width, seed)
    right = _truth(whole)
    for kept in KEPT:
        for n in sizes:
            found = in_a_ring(whole, n, getattr(torch, kept))
            a, dq, dk, dv = _rms(found, right)
            yield Error(kept=kept, ranks=n, a=a, dq=dq, dk=dk, dv=dv)


def on_rank(rank: Rank, **sizes: Any) -> list[dict[str, Any]]:
    """`errors` as the work of one rank process: each is emitted when it is known."""
    torch.set_num_threads(1)
    told = []
    for error in errors(**sizes):
        told.append(asdict(error))
        rank.emit({"event": "error", "rank": rank.rank, **told[-1]})
    return told


def drawn(seq: int, heads: int, width: int, seed: int) -> Whole:
    """q, k, v and da[1, H, S, K] in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v, da = (
        torch.randn(1, heads, seq, width, generator=generator).bfloat16() for _ in range(4)
    )
    return q, k, v, da


def in_a_ring(given: Whole, n: int, kept: torch.dtype) -> Whole:
    """a, dq, dk, dv of q, k, v, da by a ring of n members that sums in `kept`, played in turn."""
    q, k, v, da = given
    layout = Layout(seq=q.shape[2], ranks=n)
    qs, das = (x.chunk(n, dim=2) for x in (q, da))
    kvs = torch.stack((k, v)).chunk(n, dim=3)
    a, dq, behind = list[Tensor](), list[Tensor](), dict[int, Tensor]()
    queries = []
    for member in range(n):
        running = Running(qs[member], kept)
        for hop in range(n):
            source = (member - hop) % n
            running.meet(qs[member], kvs[source], layout.tiles(member, source, causal=False))
        a.append(running.out_bhsk.to(q.dtype))
        queries.append(Queries(qs[member], a[-1], das[member], running.lse_bhs))
        dq.append(torch.zeros_like(qs[member], dtype=kept))
    for hop in range(n):
        for member in range(n):
            source = (member - hop) % n
            dkv = torch.zeros_like(kvs[source], dtype=kept)
            for tile in layout.tiles(member, source, causal=False):
                backward_into(queries[member], kvs[source], tile, dq=dq[member], dkv=dkv)
            if hop:
                dkv += behind[source]  # what the members before have found for the same kv
            behind[source] = dkv
    dk, dv = torch.cat([behind[block] for block in range(n)], dim=3).to(q.dtype)
    return torch.cat(a, dim=2), torch.cat(dq, dim=2).to(q.dtype), dk, dv


def _truth(given: Whole) -> Whole:
    q, k, v, da = (x.double() for x in given)
    a, lse = attend(q, k, v, diagonal=False)
    return a, *attend_backward(Queries(q, a, da, lse), k, v, diagonal=False)


def _rms(found: Whole, right: Whole) -> list[float]:
    return [
        float((mine.double() - true).norm() / true.norm())
        for mine, true in zip(found, right, strict=True)
    ]

"""On real ranks: a ring in bfloat16 beside the one that one process plays."""

from __future__ import annotations

import torch

from parallel_core.comm import Comm
from parallel_core.context import rounding
from parallel_core.context.attention import attention
from parallel_core.context.context import Context
from parallel_core.context.layout import AXIS, Layout
from parallel_core.mesh import Mesh
from parallel_core.rank import Rank


def beside_the_played(rank: Rank, *, seq: int) -> dict[str, list[bool]]:
    """Whether a, dq, dk, dv of this rank are equal, bit for bit, by the type of the sums."""
    rank.init("gloo")
    torch.set_num_threads(1)
    n = rank.world_size
    comm, layout = Comm(Mesh(((AXIS, n),)), rank.rank), Layout(seq=seq, ranks=n)
    whole = rounding.drawn(seq, 2, 16, 0)
    told = {}
    for kept in rounding.KEPT:
        merge = getattr(torch, kept)
        played = [x.chunk(n, dim=2)[rank.rank] for x in rounding.in_a_ring(whole, n, merge)]
        *qkv, da = (x.chunk(n, dim=2)[rank.rank].contiguous() for x in whole)
        leaves = [x.requires_grad_() for x in qkv]
        context = Context(comm, layout, method="ring", causal=False, merge=merge)
        a = attention(*leaves, context)
        found = [a.detach(), *torch.autograd.grad(a, leaves, da)]
        told[kept] = [torch.equal(x, y) for x, y in zip(found, played, strict=True)]
    return told

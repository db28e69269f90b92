"""On real ranks: pass-Q's spans, and a hop whose two ends do not agree."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import torch
from context_targets import cp_mesh

from parallel_core.comm import Comm
from parallel_core.context import layout_of, pass_q
from parallel_core.context.attention import attention
from parallel_core.context.context import Context
from parallel_core.context.layout import AXIS
from parallel_core.context.merge import Running
from parallel_core.rank import Rank, choose_backend
from parallel_core.resident import live_bytes
from parallel_core.ring_exchange import Exchange


def spans_of_queries(rank: Rank, *, pause: float) -> dict[str, list[list[Any]]]:
    """What pass-Q noted, forward then backward, with and without overlap; a tile is a pause."""
    rank.init(choose_backend(rank.local_size))
    torch.set_num_threads(1)
    comm = Comm(cp_mesh(rank.world_size), rank.rank)
    layout = layout_of("pass-q", 64, ranks=rank.world_size)
    leaves = [torch.zeros(1, 2, layout.share, 8, requires_grad=True) for _ in "qkv"]

    def sleep(*args: Any, **named: Any) -> None:
        time.sleep(pause)

    told = {}
    with patch.object(Running, "meet", sleep), patch.object(pass_q, "backward_into", sleep):
        for name in ("apart", "beside"):
            context = Context(comm, layout, method="pass-q", overlap=name == "beside", spans=[])
            comm.barrier(AXIS)
            attention(*leaves, context).sum().backward()
            assert context.spans is not None
            told[name] = [[s.what, s.start, s.asked, s.done] for s in context.spans]
    return told


def hop_at_odds(rank: Rank, *, kind: str) -> float:
    """One hop round the ring; the last rank hands over something else."""
    rank.init(choose_backend(rank.local_size))
    comm = Comm(cp_mesh(rank.world_size), rank.rank)
    x, name = torch.ones(4, 2), "kv"
    if rank.rank == rank.world_size - 1:
        x = {"shape": torch.ones(2, 4), "dtype": torch.ones(4, 2).int()}.get(kind, x)
        name = "dkv" if kind == "name" else name
    return float(Exchange(comm, x, AXIS, name=name).wait().sum())


def left_by_a_forward(rank: Rank, *, methods: list[str], seq: int) -> dict[str, float]:
    """Bytes that a forward leaves, its result among them, in those of the rank's queries."""
    rank.init(choose_backend(rank.local_size))
    torch.set_num_threads(1)
    comm, read = Comm(cp_mesh(rank.world_size), rank.rank), live_bytes(torch.device("cpu"))
    told = {}
    for method in methods:
        layout = layout_of(method, seq, ranks=rank.world_size, ulysses=2)
        leaves = [torch.zeros(1, 4, layout.share, 32, requires_grad=True) for _ in "qkv"]
        context = Context(comm, layout, method=method)
        attention(*leaves, context)  # what is made once
        left = []
        for _ in range(3):  # a message's buffer may be given back a moment late
            before = read()
            a = attention(*leaves, context)
            left.append((read() - before) / a.nbytes)
            del a
        told[method] = sorted(left)[1]
    return told

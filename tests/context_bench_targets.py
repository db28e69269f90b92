"""On real ranks: contests of context parallelism with a fault planted in one side."""

from __future__ import annotations

import time
from typing import Any

import torch

from parallel_core.bench import context_ranks
from parallel_core.bench.context_peer import torch_ring
from parallel_core.bench.context_rows import ONE, RING, ZIGZAG
from parallel_core.plan import Plan
from parallel_core.rank import Rank
from parallel_core.resident import live_bytes


def unbalanced(rank: Rank, **args: Any) -> dict[str, Any]:
    """torch's ring takes a zigzag for a contiguous cut, and masks the wrong tiles."""

    def always_contiguous(*, zigzag: bool, rotation: str) -> context_ranks.Attend:
        return torch_ring(zigzag=False, rotation=rotation)

    context_ranks.torch_ring = always_contiguous  # in this rank's own process
    return context_ranks.contend(rank, **args)


def kept(rank: Rank, *, plan: dict[str, Any]) -> dict[str, int]:
    """Bytes that each of our sides, and one process, keeps for the backward."""
    torch.set_num_threads(1)
    rank.init("gloo")
    layers, _ = context_ranks.layers_of(Plan.of(**plan), rank)
    read = live_bytes(context_ranks.CPU)
    sides = [name for name in (ZIGZAG, RING, ONE) if name in layers]
    return {name: min(layers[name].kept(read) for _ in range(3)) for name in sides}


def idle(rank: Rank, **args: Any) -> list[list[Any]]:
    """By clock what a turn of sleep costs: [seconds, processor time]."""
    rank.init("gloo")
    turns = context_ranks.Turns(rank, "sleep", 1)
    blocks = turns.take({"sleep": lambda: time.sleep(0.05)})
    return [[block.seconds, block.cpu] for block in blocks]

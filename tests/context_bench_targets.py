"""On real ranks: contests of context parallelism with a fault planted in one side."""

from __future__ import annotations

import time
from typing import Any

from parallel_core.bench import context_ranks
from parallel_core.bench.context_peer import torch_ring
from parallel_core.rank import Rank


def unbalanced(rank: Rank, **args: Any) -> dict[str, Any]:
    """torch's ring takes a zigzag for a contiguous cut, and masks the wrong tiles."""

    def always_contiguous(*, zigzag: bool, rotation: str) -> context_ranks.Attend:
        return torch_ring(zigzag=False, rotation=rotation)

    context_ranks.torch_ring = always_contiguous  # in this rank's own process
    return context_ranks.contend(rank, **args)


def idle(rank: Rank, **args: Any) -> list[list[Any]]:
    """By clock what a turn of sleep costs: [seconds, processor time]."""
    rank.init("gloo")
    turns = context_ranks.Turns(rank, "sleep", 1)
    blocks = turns.take({"sleep": lambda: time.sleep(0.05)})
    return [[block.seconds, block.cpu] for block in blocks]

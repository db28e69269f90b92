"""On the ranks: meet, sum once, and say when that was over."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from parallel_core.rank import Rank


def first_all_reduce(rank: Rank) -> None:
    """Emits {"event": "summed", "at": ns of the machine-wide clock} after one small all-reduce."""
    rank.init("gloo")
    dist.all_reduce(torch.ones(16))
    rank.emit({"event": "summed", "at": time.perf_counter_ns()})

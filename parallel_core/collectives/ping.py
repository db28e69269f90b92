"""Ping-pong: what a message between two real processes costs, by size. The points of a link's fit.

One round trip is two messages, so a message takes half of it; the median of many is what counts,
and the fastest tenth shows what the machine could do alone.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist

from parallel_core.rank import Rank

SIZES = (8, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24)


def ping(
    rank: Rank, *, sizes: list[int] | None = None, seconds: float = 0.35
) -> list[dict[str, Any]]:
    """Rank 0 and rank 1 pass messages of each size to and fro for about `seconds` a size.

    Rank 0 emits {"event": "point"} as each is measured, and returns them: bytes, the median
    seconds of one message, the lower and upper decile, and how many round trips were made.
    """
    rank.init()
    points = []
    for size in sizes or SIZES:
        x = torch.zeros(size, dtype=torch.uint8)
        _volley(x, rank.rank, 3)
        trial = max(_volley(x, rank.rank, 5)) / 1e9
        count = torch.tensor([min(max(int(seconds / max(trial, 1e-6)), 10), 2000)])
        dist.broadcast(count, 0)  # both ends must agree how often
        trips = _volley(x, rank.rank, int(count))
        point = _point(size, [trip / 2e9 for trip in trips])
        if rank.rank == 0:
            rank.emit({"event": "point", **point})
        points.append(point)
    return points


def _volley(x: torch.Tensor, rank: int, trips: int) -> list[int]:
    """Nanoseconds of each of so many round trips."""
    times = []
    for _ in range(trips):
        start = time.perf_counter_ns()
        if rank == 0:
            dist.send(x, 1)
            dist.recv(x, 1)
        else:
            dist.recv(x, 0)
            dist.send(x, 0)
        times.append(time.perf_counter_ns() - start)
    return times


def _point(size: int, seconds: list[float]) -> dict[str, Any]:
    low, *_, high = statistics.quantiles(seconds, n=10)
    middle = statistics.median(seconds)
    return {"bytes": size, "seconds": middle, "low": low, "high": high, "trips": len(seconds)}

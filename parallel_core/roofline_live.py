"""The roofline of this machine, measured: what one thread computes and what it moves.

The target of a rank process, never run in the web process. Three measurements, in this order:

    streams   copy, scale, add and read of arrays far larger than the caches: the sloping roof
    peak      a square matmul that stays in the cache: the flat roof
    points    x[m, K] @ w[N, K]' for m = 1, 2, 4, ...: intensity rises with m, the weights come
              from memory each time (several copies in turn), as in decoding with a batch of m

A kernel's time is its thread's own CPU time, the best of many short calls: what others do on the
same cores meanwhile disturbs that least, so a point lies under both roofs. (CPU time counts the
wait for memory. The best, not the mean, is STREAM's rule: McCalpin 1995.)
"""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel_core.hardware.roofline import matmul, ridge
from parallel_core.matmul_share import share
from parallel_core.plan import Plan
from parallel_core.provenance import commit
from parallel_core.rank import Rank
from parallel_core.trace import Kind, Provenance

K, N = 2048, 4096  # the weights of a point: w[N, K]
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PIECE = 8 << 20  # bytes of an array that one call streams
SQUARE = 512  # the peak's matmul
STREAMS = {"copy": 2, "scale": 2, "add": 3, "read": 1}  # passes over an array
WIDTHS = (64, 256, 512)  # models whose step is taken apart


def measure(
    rank: Rank, *, dtype: str = "float32", seconds: float = 3.0, widths: Sequence[int] = WIDTHS
) -> dict[str, Any]:
    """Measure roofs, points and matmul shares on one thread of the CPU: `rank` is a process's own.

    Takes about `seconds`, and about one more for the shares. Emits each finding as it is made
    ({"found": "stream" | "peak" | "point" | "share", ...}) and returns them by kind, beside
    "dtype", "badge", "peak" in FLOP/s, "bandwidth" in bytes/s and "ridge" in FLOP/byte. Raises
    ValueError for a dtype that is no torch floating type.
    """
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(f"dtype={dtype!r} is no floating type of torch; take float32 or bfloat16")
    torch.set_num_threads(1)
    points = [f"batch {m}" for m in BATCHES]
    rank.describe([*STREAMS, "peak", *points, "peak again", *map(str, widths), "end"])
    rank.beat(0, 0)
    jobs = itertools.chain(
        _streams(kind, seconds),
        _peak(kind, seconds),
        _points(kind, seconds),
        _peak(kind, seconds),
        _shares(widths),
    )
    found: dict[str, list[dict[str, Any]]] = {"stream": [], "peak": [], "point": [], "share": []}
    for index, finding in enumerate(jobs, start=1):
        rank.emit(finding)
        rank.beat(0, index)
        found[finding["found"]].append(finding)
    return {
        "dtype": dtype,
        "badge": _badge(dtype),
        **roofs(found),
        "points": found["point"],
        "shares": found["share"],
    }


def _badge(dtype: str) -> str:
    return Provenance(
        kind=Kind.MEASURED,
        backend=f"one thread's CPU time, {dtype}",
        machine=f"{os.cpu_count()} cores ({platform.machine()} {platform.system()})",
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=commit(),
    ).badge


def roofs(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Peak, bandwidth and ridge from the findings: of each the best that was seen."""
    peak = max(square["flops"] for square in found["peak"])
    bandwidth = max(stream["bandwidth"] for stream in found["stream"])
    return {
        "peak": peak,
        "bandwidth": bandwidth,
        "ridge": ridge(peak, bandwidth),
        "streams": found["stream"],
    }


def _streams(dtype: torch.dtype, seconds: float) -> Iterator[dict[str, Any]]:
    """Three arrays, each four times the last-level cache, piece after piece.

    Bytes read plus bytes written, as STREAM counts them: a copy moves two arrays.
    """
    size = min(max(4 * last_level_cache(), 64 << 20), 256 << 20)
    whole = torch.ones(3, size // dtype.itemsize, dtype=dtype)
    pieces = itertools.cycle(torch.split(whole, PIECE // dtype.itemsize, dim=1))
    calls: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (
        lambda x, y, out: out.copy_(x),
        lambda x, y, out: torch.mul(x, 3.0, out=out),
        lambda x, y, out: torch.add(x, y, out=out),
        lambda x, y, out: x.sum(),
    )
    for (name, passes), call in zip(STREAMS.items(), calls, strict=True):
        took = best(partial(_on_next, call, pieces), seconds / 20)
        yield {"found": "stream", "name": name, "bandwidth": passes * PIECE / took}


def _on_next(call: Callable[..., Tensor], pieces: Iterator[Tensor]) -> Tensor:
    return call(*next(pieces))


def _peak(dtype: torch.dtype, seconds: float) -> Iterator[dict[str, Any]]:
    a, b = (torch.rand(SQUARE, SQUARE).to(dtype) for _ in range(2))
    took = best(lambda: a @ b, seconds / 10)
    yield {"found": "peak", "flops": 2.0 * SQUARE**3 / took}


def _points(dtype: torch.dtype, seconds: float) -> Iterator[dict[str, Any]]:
    size = N * K * dtype.itemsize
    copies = min(max(4, -(-4 * last_level_cache() // size)), 16)
    weights = [torch.rand(N, K).to(dtype) for _ in range(copies)]
    turn = itertools.cycle(weights)
    for m in BATCHES:
        x = torch.rand(m, K).to(dtype)
        took = best(partial(_next_product, x, turn), seconds / 20)
        kernel = matmul(m, N, K, dtype.itemsize)
        yield {
            "found": "point",
            "batch": m,
            "intensity": kernel.intensity,
            "flops": kernel.flops / took,
            "seconds": took,
        }


def _next_product(x: Tensor, weights: Iterator[Tensor]) -> Tensor:
    return F.linear(x, next(weights))


def _shares(widths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Two layers of our model at rising width; float32, since a step's mix is what is asked."""
    for width in widths:
        plan = Plan.of(layers=2, hidden=width, heads=width // 32, global_batch=2, seq=128)
        yield {"found": "share", "width": width, "seconds": share(plan)}


def best(call: Callable[[], Any], budget: float) -> float:
    """CPU seconds of the fastest of several calls: `budget` seconds of them, three at least."""
    call()
    took: list[float] = []
    end = time.perf_counter() + budget
    while len(took) < 3 or time.perf_counter() < end:
        start = time.thread_time()
        call()
        took.append(time.thread_time() - start)
    return min(took)


def last_level_cache() -> int:
    """Bytes of the largest cache a core of this machine sees; 32 MiB where it is not told."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    told = [int(path.read_text().strip().removesuffix("K")) << 10 for path in sizes]
    return max(told, default=32 << 20)

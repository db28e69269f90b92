"""Worker functions for the tests of live collectives."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from parallel_core.collectives import live, shared
from parallel_core.rank import Rank


def run_all(rank: Rank, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every case in turn in the same processes."""
    return [live.run(rank, **case) for case in cases]


def direct(rank: Rank, sizes: list[int], dtype: str, rounds: int) -> list[Any]:
    """Both direct all-reduces against torch's, for every size, several times over one room."""
    rank.init()
    kind = getattr(torch, dtype)
    room = shared.Room(rank.dir / "room", rank.rank, rank.world_size, max(sizes) * 8 + 8)
    told = []
    for size in sizes:
        for again in range(rounds):
            torch.manual_seed(1000 * again + rank.rank)
            x = (torch.randn(size) * 10).to(kind)
            truth = x.clone()
            dist.all_reduce(truth)
            for call in (shared.one_shot, shared.two_shot):
                mine = call(x.clone(), room)
                first = mine.clone()
                dist.broadcast(first, 0)
                off = (mine.double() - truth.double()).abs().max() if size else torch.zeros(())
                told.append([float(off), bool(torch.equal(first, mine))])
    return told


def late_reader(rank: Rank, call: str, calls: int) -> list[float]:
    """Sums of ones, twos, ...: rank 1 looks at the others' buffers 50 ms late each time."""
    rank.init()
    room = shared.Room(rank.dir / "room", rank.rank, rank.world_size, 4096)
    add_up = shared._add_up

    def late(parts: list[torch.Tensor], out: torch.Tensor) -> None:
        time.sleep(0.05)
        add_up(parts, out)

    shared._add_up = late if rank.rank == 1 else add_up
    sums = []
    try:
        for k in range(calls):
            x = getattr(shared, call)(torch.full((64,), float(k + 1)), room)
            sums.append(float(x.mean()))
    finally:
        shared._add_up = add_up
    return sums


def speed(rank: Rank, sizes: list[int], rounds: int) -> list[list[float]]:
    """Best seconds of gloo's, one-shot's and two-shot's all-reduce, by size (a look, no test)."""
    rank.init()
    room = shared.Room(rank.dir / "room", rank.rank, rank.world_size, max(sizes) * 4)
    rows = []
    for size in sizes:
        x = torch.ones(size)
        calls = [
            lambda x=x: dist.all_reduce(x),
            lambda x=x: shared.one_shot(x, room),
            lambda x=x: shared.two_shot(x, room),
        ]
        best = [float("inf")] * 3
        for _ in range(rounds):
            for i, call in enumerate(calls):
                dist.barrier()
                x.fill_(1)
                start = time.perf_counter()
                call()
                best[i] = min(best[i], time.perf_counter() - start)
        rows.append([size * 4, *best])
    return rows

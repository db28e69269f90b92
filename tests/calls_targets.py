"""Worker functions for the tests of mismatched calls; each plants one fault."""

from __future__ import annotations

import time
from typing import Any

import torch

from parallel_core.collectives import live
from parallel_core.comm import Comm
from parallel_core.mesh import Mesh
from parallel_core.rank import Rank

CULPRIT = 1


def faulty(rank: Rank, kind: str, steps: int = 4, bad: int = 2) -> list[float]:
    """Steps of two all-reduces; in step `bad` the culprit does something else."""
    rank.init()
    comm = Comm(Mesh((("dp", rank.world_size),)), rank.rank)
    told = []
    rank.describe(["first", "second"])
    for step in range(steps):
        odd = rank.rank == CULPRIT and step == bad
        size, dtype = 64, torch.float32
        if odd and kind == "size":
            size = 400_000
        if odd and kind == "dtype":
            dtype = torch.int32  # as many bytes: gloo would add them up as what they are not
        names = ["bucket0", "bucket1"]
        if odd and kind == "order":
            names.reverse()  # equal in size: gloo would add one to the other
        for index, name in enumerate(names):
            rank.beat(step, index)
            if odd and kind == "skip" and index == 0:
                continue
            if odd and kind == "op" and index == 0:
                comm.broadcast(torch.ones(size), "dp")
                continue
            x = torch.ones(size, dtype=dtype)
            comm.all_reduce(x, "dp", name=name)
            told.append(float(x[0]))
    return told


def skips_the_last(rank: Rank) -> None:
    """The culprit leaves out its last call and idles, as one that is stuck elsewhere does."""
    rank.init()
    comm = Comm(Mesh((("dp", rank.world_size),)), rank.rank)
    rank.describe(["all_reduce bucket0", "F layer0"])
    for step in range(3):
        if rank.rank == CULPRIT and step == 2:
            rank.beat(step, 1)
            time.sleep(600)
        rank.beat(step, 0)
        comm.all_reduce(torch.ones(8), "dp", name="bucket0")


def messages(rank: Rank, kind: str) -> list[float]:
    """Rank 0 sends three messages to rank 1, who expects something else of the third."""
    rank.init()
    comm = Comm(Mesh((("pp", 2),)), rank.rank)
    told = []
    for mb in range(3):
        odd = mb == 2
        if rank.rank == 0:
            comm.send(torch.full((4, 2), float(mb)), 1, name=f"act[{mb}]")
            continue
        wanted: dict[str, Any] = {
            "size": (torch.zeros(4, 300_000), f"act[{mb}]"),
            "dtype": (torch.zeros((4, 2), dtype=torch.int32), f"act[{mb}]"),
            "order": (torch.zeros(4, 2), "act[7]"),
            "none": (torch.zeros(4, 2), f"act[{mb}]"),
        }
        x, name = wanted[kind if odd else "none"]
        told.append(float(comm.recv(x, 0, name=name)[0, 0]))
    return told


def to_all(rank: Rank, wrong: bool) -> list[list[float]]:
    """An uneven all-to-all: rank r sends r + 1 rows to everybody; one expects too many."""
    rank.init()
    n = rank.world_size
    comm = Comm(Mesh((("ep", n),)), rank.rank)
    mine = torch.full(((rank.rank + 1) * n, 3), float(rank.rank))
    coming = [peer + 1 for peer in range(n)]
    if wrong and rank.rank == CULPRIT:
        coming[0] += 1
    return comm.all_to_all(mine, "ep", [rank.rank + 1] * n, coming).tolist()


def two_comms(rank: Rank) -> list[float]:
    """One Comm after another in the same run, and groups within it: nothing is mistaken."""
    rank.init()
    told = []
    for axes in ((("dp", 4),), (("tp", 2), ("dp", 2)), (("dp", 4),)):
        comm = Comm(Mesh(axes), rank.rank)
        for axis, _ in axes:
            for size in range(3, 9):
                x = comm.all_reduce(torch.ones(size), axis)
                told.append(float(comm.broadcast(x, axis)[0]))
            comm.barrier(axis)
            told.append(float(comm.all_gather(torch.ones(2), axis).sum()))
            told.append(float(comm.reduce_scatter(torch.ones(4), axis).sum()))
    return told


def collective(rank: Rank, kind: str) -> dict[str, Any]:
    """An all-reduce spelled out in messages, for which the culprit has other plans."""
    odd = rank.rank == CULPRIT
    what = {
        "op": "all_reduce",
        "algorithm": "tree" if odd and kind == "algorithm" else "ring",
        "group": {"n": rank.world_size},
    }
    return live.run(rank, what=what, elements=4096 + 8 * (odd and kind == "size"), repeats=2)


def price(rank: Rank, calls: int) -> float:
    """Seconds that a comparison takes, as it is called in a Comm."""
    rank.init()
    comm = Comm(Mesh((("dp", rank.world_size),)), rank.rank)
    x = torch.ones(1024)
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            comm._compare("all_reduce", "dp", x, "bucket0")
        best = min(best, (time.perf_counter() - start) / calls)
    return best

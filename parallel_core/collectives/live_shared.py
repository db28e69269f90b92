"""The direct all-reduces on real processes, through shared memory: no message is sent.

Same inputs, same promise and same second opinion as live.py, whose reader takes these results too.
Before each run the buffer is filled anew and the ranks meet; neither is timed.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch
import torch.distributed as dist

from parallel_core.collectives import names as v
from parallel_core.collectives.group import AXIS, Group
from parallel_core.collectives.live import difference, digest, error, inputs_of
from parallel_core.collectives.peer import peer
from parallel_core.collectives.promise import promise
from parallel_core.collectives.shared import Room, one_shot, two_shot
from parallel_core.rank import Rank

CALLS = {"one_shot": one_shot, "two_shot": two_shot}
"""The algorithms that read all others' buffers where they lie."""


def run(
    rank: Rank, *, algorithm: str, elements: int, dtype: str = "float32", repeats: int = 5
) -> dict[str, Any]:
    """`repeats` all-reduces over `elements`; this rank's measurements, as live.run returns them.

    The buffer is one chunk. Raises ValueError where the memory file system has no room for it.
    """
    here, kind = Group(rank.world_size), getattr(torch, dtype)
    word = promise("all_reduce", here, 1)
    draw = inputs_of(lambda value: elements, kind)
    x = draw(rank.rank, v.x(0))
    _must_have_room(rank, x.nbytes)
    rank.init()
    room = Room(rank.dir / "room", rank.rank, rank.world_size, x.nbytes)
    theirs = peer("all_reduce", here, rank.rank, {v.x(0): x}, sizes=(elements,), like=x)
    rank.describe([algorithm, "torch's all_reduce", "the comparison"])
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    total = x
    for step in range(repeats):
        rank.beat(step, 0)
        total = x.clone()
        dist.barrier()
        start = time.perf_counter()
        CALLS[algorithm](total, room)
        seconds["ours"].append(time.perf_counter() - start)
        rank.beat(step, 1)
        if theirs:
            theirs.prepare()
            dist.barrier()
            start = time.perf_counter()
            theirs.call()
            seconds["torch"].append(time.perf_counter() - start)
    rank.beat(repeats, 2)
    outputs = {v.total(0): total}
    told = theirs.outputs() if theirs else {}
    return {
        "counts": [],
        "seconds": seconds if theirs else {"ours": seconds["ours"]},
        "error": error(outputs, word, rank.rank, draw),
        "error_to_torch": difference(outputs, told) if told else None,
        "digest": {str(v.total(0)): digest(total)},
        "axis": AXIS,
    }


def _must_have_room(rank: Rank, size: int) -> None:
    needed, free = size * (rank.world_size + 1), shutil.disk_usage(rank.dir).free
    if needed > free:
        raise ValueError(
            f"{rank.world_size} ranks share {needed:,} bytes, and the file system of {rank.dir}"
            f" has {free:,} free: choose fewer bytes"
        )

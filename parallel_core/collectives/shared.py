"""Direct all-reduce through shared memory: every rank reads all others where they lie.

Nouns. The *room* is one file on a memory file system, mapped by every rank of a machine: a line of
flags and a slot of bytes a rank, and one slot for the sum. A *stage* is a point that all ranks
must reach before any goes on; a rank says it is there by writing the stage's number into its flag.

    one-shot   every rank copies its buffer into its slot; stage; reads all slots and adds them
    two-shot   every rank copies; stage; adds up its own chunk of all slots into the sum's slot;
               stage; copies the whole sum out

One-shot reads (n-1)S a rank and waits for one stage (and for another before its slots are used
again); two-shot reads 2S(n-1)/n and waits for two. Both add in rank order, so all ranks hold the
same bits. Numbers of stages only grow, so a flag left by an earlier call can never be taken for a
later one's. On GPUs the same idea is NVLink peer access ("direct data access"). Flags are 64-bit
and aligned; x86 and ARMv8 store those in one piece, and calls.fence orders the copy before the
flag.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import torch
from torch import Tensor

from parallel_core.calls import fence
from parallel_core.collectives.names import chunk_sizes

LINE = 64  # bytes a flag has to itself, so that ranks do not slow one another
SPIN = 200  # looks at a flag before the processor is offered to others


class Room:
    """The mapped file of one group. `capacity` is the largest buffer, bytes."""

    def __init__(self, path: Path, rank: int, n: int, capacity: int) -> None:
        self.rank, self.n = rank, n
        slot = -(-capacity // LINE) * LINE
        size = LINE * n + slot * (n + 1)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, size)  # every rank asks for the same size; new bytes are zero
            self._memory = mmap.mmap(handle, size)
        finally:
            os.close(handle)
        whole = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._flags = memoryview(self._memory)[: LINE * n].cast("q")
        self.slots = [whole[LINE * n + i * slot :][:slot] for i in range(n + 1)]
        self._stage = 0

    def meet(self) -> None:
        """Wait until every rank has come to this stage."""
        self._stage += 1
        fence()
        step = LINE // 8
        self._flags[self.rank * step] = self._stage
        looks = 0
        for other in range(self.n):
            while self._flags[other * step] < self._stage:
                looks += 1
                if looks % SPIN == 0:
                    time.sleep(0)  # with more ranks than cores the one we wait for needs ours
        fence()

    def slot(self, owner: int, like: Tensor) -> Tensor:
        """The slot of a rank (n: the sum's) as a tensor of the type and length of `like`."""
        return self.slots[owner][: like.nbytes].view(like.dtype)


def one_shot(x: Tensor, room: Room) -> Tensor:
    """x[C]+r -> x[C] in place; a contiguous 1-d tensor no larger than the room's slots."""
    if room.n == 1:
        return x
    room.slot(room.rank, x).copy_(x)
    room.meet()
    _add_up([room.slot(r, x) for r in range(room.n)], x)
    room.meet()  # nobody may overwrite a slot that another still reads
    return x


def two_shot(x: Tensor, room: Room) -> Tensor:
    """x[C]+r -> x[C] in place, as one_shot; each rank adds up one chunk for all."""
    if room.n == 1:
        return x
    sizes = chunk_sizes(len(x), room.n)
    start = sum(sizes[: room.rank])
    mine = slice(start, start + sizes[room.rank])
    room.slot(room.rank, x).copy_(x)
    room.meet()
    total = room.slot(room.n, x)
    _add_up([room.slot(r, x)[mine] for r in range(room.n)], total[mine])
    room.meet()
    x.copy_(total)  # the next call adds nothing up before all have come to its first stage
    return x


def _add_up(parts: list[Tensor], out: Tensor) -> None:
    """The sum of two parts or more in rank order."""
    torch.add(parts[0], parts[1], out=out)
    for part in parts[2:]:
        out.add_(part)


def all_reduce(x: Tensor, room: Room, *, small: int = 1 << 15) -> Tensor:
    """One-shot up to `small` bytes and between two ranks, two-shot above: then it reads less."""
    return one_shot(x, room) if x.nbytes <= small or room.n == 2 else two_shot(x, room)

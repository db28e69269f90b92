"""On the ranks: four ways to all-reduce one buffer, by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.bench.collectives import GLOO, SIDES
from parallel_core.bench.interleave import Block
from parallel_core.collectives import build
from parallel_core.collectives.group import Group
from parallel_core.collectives.names import chunk_sizes, chunks, total, value_sizes
from parallel_core.collectives.names import x as own
from parallel_core.collectives.ports import Ports
from parallel_core.collectives.shared import Room, all_reduce
from parallel_core.comm import Comm
from parallel_core.lanes import Lanes
from parallel_core.rank import Rank

TRIES = 3  # untimed calls a side, before anything is compared
BOUND = 1e-5  # how far sums may stand apart, relative: rounding in another order


class InMessages:
    """One of our algorithms, message by message, on a buffer of one size."""

    def __init__(self, rank: Rank, comm: Comm, algorithm: str, x: Tensor) -> None:
        group = Group(rank.world_size)
        program = build("all_reduce", algorithm, group)
        count = chunks(program)
        pieces = torch.split(x, list(chunk_sizes(len(x), count)))
        inputs = {own(c): piece for c, piece in enumerate(pieces)}
        promised = [total(c) for c in range(count)]
        self.ports = Ports(comm, inputs, promised, value_sizes(program, len(x)), x.dtype)
        self.lanes = Lanes(program.ranks[rank.rank], self.ports.table(), beat=rank.beat)
        self.step = 0

    def call(self) -> Tensor:
        """The sum, in the output buffer; the recorder's notes are dropped."""
        self.lanes.notes.clear()
        self.ports.outputs(self.lanes.run(self.step, self.ports.inputs))
        self.step += 1
        return self.ports.output


def contend(
    rank: Rank, *, sizes: Sequence[int], rounds: int, turn_ms: int
) -> list[list[dict[str, Any]]]:
    """For each size in bytes the blocks of all turns, in order. Emits {"event": "size"} before."""
    rank.init()
    comm = Comm(Group(rank.world_size).mesh, rank.rank)
    room = Room(rank.dir / "room", rank.rank, rank.world_size, max(sizes))
    told = []
    for size in sizes:
        rank.emit({"event": "size", "bytes": size})
        x = torch.full((size // 4,), float(rank.rank + 1))
        told.append([asdict(block) for block in _race(rank, comm, room, x, rounds, turn_ms)])
    return told


def _race(rank: Rank, comm: Comm, room: Room, x: Tensor, rounds: int, turn_ms: int) -> list[Block]:
    ring, halving = (InMessages(rank, comm, name, x) for name in SIDES[:2])
    mine, theirs = x.clone(), x.clone()
    sides: dict[str, Callable[[], Tensor]] = dict(
        zip(
            SIDES,
            (ring.call, halving.call, lambda: all_reduce(mine, room), lambda: _gloo(theirs)),
            strict=True,
        )
    )
    try:
        _must_agree(sides, mine, theirs, x)
        for buffer in (mine, theirs, x):
            buffer.zero_()  # sums of sums would grow out of all bounds
        return _turns(sides, rounds, _calls(sides, turn_ms))
    finally:
        ring.lanes.close()
        halving.lanes.close()


def _gloo(x: Tensor) -> Tensor:
    dist.all_reduce(x)
    return x


def _must_agree(
    sides: dict[str, Callable[[], Tensor]], mine: Tensor, theirs: Tensor, x: Tensor
) -> None:
    """A wrong sum may be a fast one: all sides are compared with gloo first."""
    for _ in range(TRIES):
        mine.copy_(x)
        theirs.copy_(x)
        truth = sides[GLOO]()
        for name, call in sides.items():
            if name != GLOO and not torch.allclose(call(), truth, rtol=BOUND):
                raise ValueError(f"{name} and gloo sum up {x.nbytes} bytes to different results")


def _calls(sides: dict[str, Callable[[], Tensor]], turn_ms: int) -> dict[str, int]:
    """Calls a turn of each side, the same number on every rank."""
    calls = {}
    for name, call in sides.items():
        dist.barrier()
        start = time.perf_counter()
        call()
        took = torch.tensor([time.perf_counter() - start])
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        calls[name] = min(max(round(turn_ms / 1e3 / float(took)), 1), 100)
    return calls


def _turns(
    sides: dict[str, Callable[[], Tensor]], rounds: int, calls: dict[str, int]
) -> list[Block]:
    """Each round every side and then every side in reverse, beginning with another one."""
    blocks = []
    for number in range(rounds):
        first = number % len(sides)
        order = [*list(sides)[first:], *list(sides)[:first]]
        for name in (*order, *reversed(order)):
            dist.barrier()
            begin, spent = time.perf_counter(), time.process_time()
            for _ in range(calls[name]):
                sides[name]()
            seconds, spent = time.perf_counter() - begin, time.process_time() - spent
            blocks.append(Block(number, name, calls[name], seconds, spent))
    return blocks

"""Reduce-scatter and all-gather by pairwise exchange, for gloo, whose own are costlier.

    step k   rank r sends to r + k and receives from r - k, all sends posted at once

    n=3   reduce_scatter                 all_gather
    r0    c1 -> r1   c2 -> r2            s0 -> r1   s0 -> r2
    r1    c2 -> r2   c0 -> r0            s1 -> r2   s1 -> r0
    r2    c0 -> r0   c1 -> r1            s2 -> r0   s2 -> r1

A rank sends (n-1)/n of the whole in both, the least there is. gloo's reduce-scatter is an
all-reduce and sends twice that, from a copy of the whole; its all-gather receives into such a copy.
Here sends leave from where the tensor lies, an all-gather receives in place, and a reduce-scatter
in two pieces. A chunk is summed
in one order (its owner, then the rank before it, and so on), so results repeat to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PIECE = 1 << 22
"""Bytes of a message of a reduce-scatter: while one piece comes, the one before is added."""

SCATTER, GATHER = 1 << 16, 1 << 17
"""Tags of these messages, so that no send or receive of a pipeline is taken for one."""


def reduce_scatter(
    shard: Tensor, x: Tensor, ranks: Sequence[int], group: dist.ProcessGroup
) -> None:
    """x[N]+r -> shard[N/r]; both contiguous, `ranks` are the members of the group in order.

    The shard may lie at its own place in x, which is else left as it is.
    """
    n, me = len(ranks), dist.get_rank(group)
    chunks, mine = x.view(n, -1), shard.view(-1)
    if chunks[me].data_ptr() != mine.data_ptr():
        mine.copy_(chunks[me])
    piece = max(PIECE // x.element_size(), 1)
    sends, comes = [], []
    for k in range(1, n):
        before, after = ranks[(me - k) % n], ranks[(me + k) % n]
        sends += [
            _send(part, after, group, SCATTER) for part in torch.split(chunks[(me + k) % n], piece)
        ]
        comes += [(part, before) for part in torch.split(mine, piece)]
    rooms = [mine.new_empty(min(piece, len(mine))) for _ in comes[:2]]  # one fills, one is added

    def receive(i: int) -> tuple[Any, Tensor]:
        part, before = comes[i]
        room = rooms[i % 2][: len(part)]
        return _receive(room, before, group, SCATTER), room

    coming = [receive(0)] if comes else []
    for i, (part, _) in enumerate(comes):
        message, room = coming.pop()
        message.wait()
        if i + 1 < len(comes):
            coming.append(receive(i + 1))
        part.add_(room)
    for send in sends:
        send.wait()


def begin_reduce_scatter(
    shard: Tensor, x: Tensor, ranks: Sequence[int], group: dist.ProcessGroup
) -> Callable[[], None]:
    """The same, begun: all is on its way when this returns, and summed when the answer is called.

    It needs room for what comes, (n-1)/n of x; the sums are made in the same order.
    """
    n, me = len(ranks), dist.get_rank(group)
    chunks, mine = x.view(n, -1), shard.view(-1)
    rooms = [torch.empty_like(mine) for _ in range(1, n)]
    sends, coming = [], []
    for k, room in enumerate(rooms, start=1):
        coming.append(_receive(room, ranks[(me - k) % n], group, SCATTER))
        sends.append(_send(chunks[(me + k) % n], ranks[(me + k) % n], group, SCATTER))

    def finish() -> None:
        mine.copy_(chunks[me])
        for message, room in zip(coming, rooms, strict=True):
            message.wait()
            mine.add_(room)
        for send in sends:
            send.wait()

    return finish


def all_gather(
    whole: Tensor, shard: Tensor, ranks: Sequence[int], group: dist.ProcessGroup
) -> None:
    """shard[N/r] -> whole[N]; both contiguous. The shard may lie at its own place in the whole."""
    for _ in all_gather_tiles(whole, shard, ranks, group):
        pass


def all_gather_tiles(
    whole: Tensor, shard: Tensor, ranks: Sequence[int], group: dist.ProcessGroup
) -> Iterator[int]:
    """The same, telling of each member's part when it is there; the rank's own is there at once,
    and all is on its way by then."""
    n, me = len(ranks), dist.get_rank(group)
    places = whole.view(n, -1)
    if places[me].data_ptr() != shard.data_ptr():
        places[me].copy_(shard.view(-1))
    sends, coming = [], []
    for k in range(1, n):
        before, after = (me - k) % n, (me + k) % n
        coming.append((before, _receive(places[before], ranks[before], group, GATHER)))
        sends.append(_send(places[me], ranks[after], group, GATHER))
    yield me
    for member, message in coming:
        message.wait()
        yield member
    for send in sends:
        send.wait()


def _send(x: Tensor, peer: int, group: dist.ProcessGroup, tag: int) -> Any:
    return dist.isend(x, peer, group=group, tag=tag)


def _receive(x: Tensor, peer: int, group: dist.ProcessGroup, tag: int) -> Any:
    return dist.irecv(x, peer, group=group, tag=tag)

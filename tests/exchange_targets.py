"""Targets of test_exchange.py: our reduce-scatter and all-gather beside gloo's, on real ranks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from parallel_core import comm as comms
from parallel_core import exchange
from parallel_core.comm import Comm
from parallel_core.mesh import Mesh
from parallel_core.rank import Rank


def beside_gloo(rank: Rank, *, rows: int, width: int, piece: int) -> dict[str, Any]:
    """Errors to gloo's own, whether sums repeat to the bit, what was written by the kernel."""
    rank.init()
    n, me = rank.world_size, rank.rank
    exchange.PIECE = piece
    comm = Comm(Mesh((("dp", n),)), me)
    x = torch.randn(rows * n, width, generator=torch.Generator().manual_seed(me))
    kept = x.clone()
    theirs = torch.empty(rows, width)
    comms._reduce_scatter(theirs, x, group=dist.group.WORLD)
    before = _written()
    first = comm.reduce_scatter(x, "dp")
    sent = _written() - before
    again = comm.reduce_scatter(x, "dp")
    begun = torch.empty_like(first)
    exchange.begin_reduce_scatter(begun, x, range(n), dist.group.WORLD)()
    untouched = torch.equal(x, kept)
    own = x[me * rows : (me + 1) * rows]
    comm.reduce_scatter(x, "dp", out=own)
    others = torch.cat([x[: me * rows], x[(me + 1) * rows :]])
    kept_others = torch.cat([kept[: me * rows], kept[(me + 1) * rows :]])
    whole, wanted = torch.empty_like(x), torch.empty_like(x)
    comms._all_gather(wanted, first, group=dist.group.WORLD)
    before = _written()
    comm.all_gather(first, "dp", out=whole)
    gathered = _written() - before
    comm.all_gather(own, "dp", out=x)
    return {
        "error": float((first - theirs).abs().max()),
        "repeats": torch.equal(first, again) and torch.equal(first, own) and untouched,
        "begun": torch.equal(first, begun),
        "in_place_spares_the_others": torch.equal(others, kept_others),
        "gathers": torch.equal(whole, wanted) and torch.equal(x, wanted),
        "bytes": x.nbytes,
        "sent": [sent, gathered],
    }


def tiles(rank: Rank, *, flag: str) -> dict[str, Any]:
    """Rank 0 touches `flag` when it has its own tile; the others send nothing until they see it,
    or until ten seconds are over."""
    rank.init()
    n, me = rank.world_size, rank.rank
    file, until = Path(flag), time.monotonic() + 10
    whole, mine = torch.zeros(n, 3), torch.full((1, 3), float(me))
    while me and not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    seen = me == 0 or file.exists()
    members = []
    for member in exchange.all_gather_tiles(whole, mine, range(n), dist.group.WORLD):
        members.append((member, whole[member].tolist()))
        if me == 0 and len(members) == 1:
            file.touch()
    return {"seen": seen, "members": members}


def among_two_axes(rank: Rank) -> list[list[float]]:
    """What each axis of a 2 x 2 mesh sums up and gathers."""
    rank.init()
    comm = Comm(Mesh((("shard", 2), ("replica", 2))), rank.rank)
    mine = torch.full((2,), 10.0**rank.rank)
    return [
        [*comm.reduce_scatter(mine, axis).tolist(), *comm.all_gather(mine[:1], axis).tolist()]
        for axis in ("shard", "replica")
    ]


def _written() -> int:
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        return 0
    return int(text.split("wchar:")[1].split()[0])

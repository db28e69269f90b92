"""Worker functions for the tests of strict messages."""

from __future__ import annotations

import time

import torch

from parallel_core.deadlock.rendezvous import StrictComm
from parallel_core.deadlock.standing import Board
from parallel_core.mesh import Mesh
from parallel_core.rank import Rank


def _comm(rank: Rank, patience_s: float) -> StrictComm:
    rank.init()
    board = Board(rank.dir / "standing", rank.world_size)
    return StrictComm(Mesh((("dp", rank.world_size),)), rank.rank, board, patience_s=patience_s)


def slow_peer(rank: Rank, seconds: float, patience_s: float) -> float:
    """Rank 1 computes for longer than the patience before it joins."""
    comm = _comm(rank, patience_s)
    if rank.rank == 1:
        time.sleep(seconds)
    x = comm.all_reduce(torch.tensor([rank.rank + 1.0]), "dp", name="late")
    comm.leave()
    return float(x)


def left_alone(rank: Rank, kind: str) -> None:
    """Rank 1 leaves before the all-reduce, or calls something else under its number."""
    comm = _comm(rank, 0.2)
    if rank.rank == 0:
        comm.all_reduce(torch.ones(4), "dp", name="bucket0")
    elif kind == "other":
        try:
            comm.broadcast(torch.ones(4), "dp", name="bucket0")
        except RuntimeError:
            time.sleep(60)  # so that the sentence is rank 0's
    else:
        comm.leave()
        time.sleep(60)  # its process lives on: only what it said tells that it will not come

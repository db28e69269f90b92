"""Mistakes that are made in context parallelism, planted one by one, each with a case it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from context_targets import cp_mesh, run_case
from torch import Tensor

from parallel_core.comm import Comm
from parallel_core.context import ulysses
from parallel_core.context.context import Context, Passing
from parallel_core.context.layout import Layout
from parallel_core.context.merge import Running
from parallel_core.rank import Rank, choose_backend

ZIGZAG = {"method": "zigzag", "causal": True, "kv_heads": 2, "seq": 16}
ONE_HEAD = {"method": "ulysses", "causal": True, "kv_heads": 1, "seq": 16}


def with_faults(rank: Rank) -> dict[str, dict[str, Any]]:
    """What run_case tells of each fault's case, with it and without any."""
    rank.init(choose_backend(rank.local_size))
    torch.set_num_threads(1)
    comm = Comm(cp_mesh(rank.world_size), rank.rank)
    told = {}
    for name, (case, fault) in FAULTS.items():
        with fault():
            told[name] = run_case(comm, case)
    return told


@contextmanager
def _replaced(owner: Any, name: str, by: Callable[..., Any]) -> Iterator[None]:
    with patch.object(owner, name, by):
        yield


def _wrong_order() -> Any:
    """Blocks are taken to come from the rank behind."""
    return _replaced(Context, "tiles", lambda self, hop, *_: self.layout.tiles(
        self.member, (self.member + hop) % self.layout.rings, self.causal))  # fmt: skip


def _no_rescaling() -> Any:
    """Results of tiles are added up as they are."""

    def add(self: Running, rows: range, out: Tensor, lse: Tensor) -> None:
        at = slice(rows.start, rows.stop)
        self.out_bhsk[:, :, at] += out
        self.lse_bhs[:, :, at] = torch.logaddexp(self.lse_bhs[:, :, at], lse)

    return _replaced(Running, "add", add)


def _last_hop_missing() -> Any:
    """Gradients of keys and values are not brought home: they stay one rank before it."""
    pass_on = Context.pass_on

    class Stays:
        def __init__(self, x: Tensor) -> None:
            self.x = x

        def wait(self) -> Tensor:
            return self.x

    def short(self: Context, x: Tensor, what: str) -> Any:
        if what == "dkv":
            made = self.__dict__.setdefault("made", [])
            made.append(what)
            if len(made) == self.layout.rings:
                return Stays(x)
        return pass_on(self, x, what)

    return _replaced(Context, "pass_on", short)


def _one_message_more() -> Any:
    """Every hop is made twice."""
    pass_on = Context.pass_on

    def twice(self: Context, x: Tensor, what: str) -> Passing:
        pass_on(self, x, what).wait()
        return pass_on(self, x, what)

    return _replaced(Context, "pass_on", twice)


def _contiguous_positions() -> Any:
    """Zigzag tiles over a contiguous sequence."""

    def chunks(self: Layout, ring: int) -> tuple[int, ...]:
        return (2 * ring, 2 * ring + 1) if self.zigzag else (ring,)

    return _replaced(Layout, "chunks", chunks)


def _copies_apart() -> Any:
    """The gradient of a head that several ranks hold is that of one of them."""
    return _replaced(ulysses, "_sum_of_copies", lambda d, kv_heads: d[:, :kv_heads])


FAULTS: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "none": (ZIGZAG, ExitStack),
    "wrong order": (ZIGZAG, _wrong_order),
    "no rescaling": (ZIGZAG, _no_rescaling),
    "last hop missing": (ZIGZAG, _last_hop_missing),
    "one message more": (ZIGZAG, _one_message_more),
    "contiguous positions": (ZIGZAG, _contiguous_positions),
    "copies apart": (ONE_HEAD, _copies_apart),
}

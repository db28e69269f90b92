"""What a context-parallel layer is given: its way to the others, its layout, its options."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from parallel_core.context.layout import AXIS, Layout, Tile, Travels, meets
from parallel_core.context.tile import Factors, wide
from parallel_core.context.traffic import heads_axis, ring_axis
from parallel_core.ring_exchange import Exchange

if TYPE_CHECKING:
    from parallel_core.comm import Comm


Factor = Callable[[range, Sequence[int], Sequence[int]], Tensor]
"""What dropout multiplies weights by, [B, H, S, T]: by heads of those that the rank has, positions
of queries, positions of keys."""


@dataclass(frozen=True)
class Span:
    """What a rank did from when to when, in nanoseconds of time.perf_counter_ns.

    A message starts when it is posted and is done when it has been waited for; from `asked` on
    nothing else was done.
    """

    what: str
    start: int
    asked: int
    done: int


@dataclass
class Context:
    """One rank of a group along cp.

    With `overlap` the next hop is posted before this hop's tiles and waited for after them, else
    it is waited for at once. `merge` is the type in which parts of several ranks are summed and
    sent, by default float32 or wider. `spans`, if a list, takes down messages and tiles. `factor`
    is that of dropout, None for none; it knows no cached keys.
    """

    comm: Comm
    layout: Layout
    method: str = "zigzag"
    causal: bool = True
    overlap: bool = True
    merge: torch.dtype | None = None
    spans: list[Span] | None = None
    factor: Factor | None = None
    ring_axis: str = field(init=False)
    heads_axis: str = field(init=False)

    def __post_init__(self) -> None:
        mesh, layout = self.comm.mesh, self.layout
        self.ring_axis, self.heads_axis = ring_axis(layout), heads_axis(layout)
        if layout.ulysses > 1 and self.method not in ("ulysses", "hybrid"):
            raise ValueError(f"{self.method} deals out no heads: its layout must have ulysses=1")
        if self.factor is not None and layout.cached:
            raise ValueError("dropout is for training, where no keys are cached")
        needed = {AXIS: layout.ranks}
        if layout.rings > 1:
            needed[self.ring_axis] = layout.rings
        for axis, n in needed.items():
            if mesh.degree(axis) != n:
                raise ValueError(f"the layout is for {axis}={n}, the mesh has {mesh.degree(axis)}")

    @property
    def me(self) -> int:
        """This rank's place along cp."""
        return self.comm.mesh.coordinate(self.comm.rank).get(AXIS, 0)

    @property
    def n(self) -> int:
        """Ranks along cp."""
        return self.layout.ranks

    @property
    def member(self) -> int:
        """This rank's place in the ring."""
        return self.me // self.layout.ulysses

    def summed_in(self, dtype: torch.dtype) -> torch.dtype:
        """The type in which sums over elements of `dtype` are kept."""
        return wide(dtype) if self.merge is None else self.merge

    def tiles(self, hop: int, travels: Travels = Travels.KV) -> tuple[Tile, ...]:
        """What this rank computes at a hop."""
        queries, keys = meets(self.member, hop, self.layout.rings, travels)
        return self.layout.tiles(queries, keys, self.causal)

    def factors(self, hop: int, q_bhsk: Tensor, travels: Travels = Travels.KV) -> Factors | None:
        """What dropout multiplies the weights of these tiles by, for the heads that `q` has."""
        factor, layout, heads = self.factor, self.layout, q_bhsk.shape[1]
        if factor is None:
            return None
        first = self.me % layout.ulysses * heads
        queries, keys = meets(self.member, hop, layout.rings, travels)
        rows, cols = layout.block_positions(queries), layout.block_positions(keys)

        def of_tile(tile: Tile) -> Tensor:
            here = rows[tile.rows.start : tile.rows.stop]
            return factor(range(first, first + heads), here, cols[tile.cols.start : tile.cols.stop])

        return of_tile

    def source(self, hop: int) -> int:
        """Whose block has come to this member of the ring at a hop."""
        return (self.member - hop) % self.layout.rings

    def pass_on(self, x: Tensor, what: str) -> Passing:
        """x to the next member of the ring, and the one before's to here; under way, or over."""
        passing = Passing(self, x, what)
        if not self.overlap:
            passing.wait()
        return passing

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Inside is one span."""
        start = time.perf_counter_ns()
        yield
        self.note(what, start, start)

    def note(self, what: str, start: int, asked: int) -> None:
        """Take down a span that ends now."""
        if self.spans is not None:
            self.spans.append(Span(what, start, asked, time.perf_counter_ns()))


class Passing:
    """One hop of a tensor round the ring, with its span; a ring of one sends no message."""

    def __init__(self, context: Context, x: Tensor, what: str) -> None:
        self._context, self._what, self._start = context, what, time.perf_counter_ns()
        self._came: Tensor | None = None
        if context.layout.rings == 1:
            self._came = x
        else:
            self._exchange = Exchange(context.comm, x, context.ring_axis, name=what)

    def wait(self) -> Tensor:
        """What has come from the member before."""
        if self._came is None:
            asked = time.perf_counter_ns()
            self._came = self._exchange.wait()
            self._context.note(self._what, self._start, asked)
        return self._came

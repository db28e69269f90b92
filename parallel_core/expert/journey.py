"""The way of rows to their experts and back: which goes where, hop by hop.

    one hop    rows, expert by expert  --ep-->  rank by rank  ->  expert by expert
    two hops   sorted by place in a node  --ep_in-->  sorted by node  --ep_out-->  expert by expert

With two hops a rank talks to the other ranks of its node and to one rank of every other node: what
crosses between nodes goes in `nodes` large messages, not in one a rank. Either way the rows of an
expert end in the order of the ranks they came from, so the sums are the same to the bit.

Counts travel ahead of each hop. He et al. 2022, FasterMoE; Rajbhandari et al. 2022, DeepSpeed-MoE,
arXiv:2201.05596, section 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from parallel_core.expert.ways import ACROSS, INSIDE

Exchange = Callable[[Tensor, str], Tensor]
"""Counts [n, ...] to the n members of an axis, one row each -> what they sent, [n, ...]."""


@dataclass(frozen=True)
class Hop:
    """One message: rows are put in `order` before it, `out` of them go to each member of `axis`,
    `into` come from each. `back` undoes the order."""

    axis: str
    order: Tensor
    back: Tensor
    out: list[int]
    into: list[int]


@dataclass
class Journey:
    """The hops of one microbatch and layer, as they become known; `each` are the rows of every
    expert that is here, in which `order` takes them at the end (`back` undoes it)."""

    hops: list[Hop] = field(default_factory=list)
    order: Tensor | None = None
    back: Tensor | None = None
    each: list[int] = field(default_factory=list)
    _counts: Tensor | None = None  # of the rows now on this rank, in their order, 3-dimensional

    def begin(self, counts: Sequence[int], *, ranks: int, node: int | None) -> None:
        """Rows lie expert by expert; `node` of the `ranks` share a node, None for one hop."""
        table = torch.tensor(counts).view(ranks, -1)
        inside = ranks if node is None else node
        self._counts = table.view(ranks // inside, inside, -1)  # [node, place, expert]

    def hop(self, exchange: Exchange, axis: str) -> Hop:
        """The next hop, once its counts have been exchanged."""
        assert self._counts is not None
        counts = self._counts
        if axis in (INSIDE, ACROSS):  # [a, b, expert] -> [b, a, expert]
            order = _reordered(counts, (1, 0, 2))
            going = counts.permute(1, 0, 2).contiguous()
        else:  # [1, rank, expert]
            order = torch.arange(int(counts.sum()))
            going = counts[0]
        came = exchange(going, axis)
        self._counts = came if came.dim() == 3 else came[None]
        sizes = (going.flatten(1).sum(1).tolist(), came.flatten(1).sum(1).tolist())
        self.hops.append(Hop(axis, order, _inverse(order), *sizes))
        if axis != INSIDE:
            self._arrive()
        return self.hops[-1]

    def _arrive(self) -> None:
        """Rows have come [from node, from place, expert]; experts want them one after another."""
        assert self._counts is not None
        self.order = _reordered(self._counts, (2, 0, 1))
        self.back = _inverse(self.order)
        self.each = self._counts.sum((0, 1)).tolist()

    def out(self, x: Tensor, hop: Hop, send: Callable[..., Tensor]) -> Tensor:
        """Rows through one hop on the way to the experts; `send(x, axis, out, into)`."""
        came = send(x.index_select(0, hop.order.to(x.device)), hop.axis, hop.out, hop.into)
        if hop.axis == INSIDE:
            return came
        assert self.order is not None
        return came.index_select(0, self.order.to(x.device))

    def home(self, y: Tensor, hop: Hop, send: Callable[..., Tensor]) -> Tensor:
        """Results, or gradients of rows, through the same hop the other way."""
        if hop.axis != INSIDE:
            assert self.back is not None
            y = y.index_select(0, self.back.to(y.device))
        came = send(y, hop.axis, hop.into, hop.out)
        return came.index_select(0, hop.back.to(y.device))


def _reordered(counts: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """Row numbers that take rows from the order of counts[a, b, c] to that of its permutation."""
    flat = counts.flatten()
    starts = (flat.cumsum(0) - flat).view(counts.shape).permute(axes).flatten().tolist()
    sizes = counts.permute(axes).flatten().tolist()
    runs = [torch.arange(at, at + n) for at, n in zip(starts, sizes, strict=True)]
    return torch.cat(runs) if runs else torch.arange(0)


def _inverse(order: Tensor) -> Tensor:
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return back

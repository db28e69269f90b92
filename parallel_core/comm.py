"""Every byte that crosses between ranks crosses here, on gloo or NCCL, and is counted.

A `Comm` knows the mesh: a collective is asked for by axis, never by process group. Layouts, with
`/ax` sharded and `+ax` partial:

    all_reduce      x[N]+ax      -> x[N]
    all_gather      x[N/ax]      -> x[N]
    reduce_scatter  x[N]+ax      -> x[N/ax]
    all_to_all      x[T/ax, E]   -> x[T, E/ax]
    broadcast       x[N] on the first rank of the group -> x[N]

Calls block until the bytes are there (on CUDA: until the current stream has them), so a caller
that wants overlap calls from its own lane (lanes.py). Bytes are taken from the tensors handed
over; nothing here predicts.

Before each call its rank looks at what the others of the group have called (calls.py): calls that
do not match end with a sentence, where gloo would abort the process or add up the wrong tensors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.mesh import Mesh


@dataclass(frozen=True)
class Sent:
    """One message as it was handed over: op, axis, payload bytes; `control` marks scalars."""

    op: str
    axis: str
    bytes: int
    control: bool


class Comm:
    """This rank's way to the others.

    `staged` copies CUDA tensors through host memory, for several ranks on one GPU over gloo
    (NCCL refuses that).
    """

    def __init__(self, mesh: Mesh, rank: int, *, staged: bool = False) -> None:
        self.mesh, self.rank, self.staged = mesh, rank, staged
        self.log: list[Sent] = []
        self._groups: dict[str, dist.ProcessGroup] = {}
        for axis, degree in mesh.axes:
            for ranks in mesh.groups(axis):
                # new_group is collective: every rank makes every group, in one order
                group = dist.group.WORLD if degree == mesh.size else dist.new_group(list(ranks))
                if rank in ranks and group is not None:
                    self._groups[axis] = group

    def all_reduce(self, x: Tensor, axis: str, *, control: bool = False) -> Tensor:
        """x+ax -> x, in place."""
        self._book("all_reduce", axis, x, control)
        return self._through_host(x, lambda t: dist.all_reduce(t, group=self._groups[axis]))

    def broadcast(self, x: Tensor, axis: str) -> Tensor:
        """x of the first rank of the group, on every rank of it, in place."""
        self._book("broadcast", axis, x)
        first = self.mesh.group(self.rank, axis)[0]
        return self._through_host(x, lambda t: dist.broadcast(t, first, group=self._groups[axis]))

    def all_gather(self, shard: Tensor, axis: str) -> Tensor:
        """x[N/ax] -> x[N], shards joined along dim 0 in group order."""
        self._book("all_gather", axis, shard)
        n = self.mesh.degree(axis)
        whole = shard.new_empty((shard.shape[0] * n, *shard.shape[1:]))
        group = self._groups[axis]
        return self._through_host(whole, lambda t: _all_gather(t, shard.to(t.device), group))

    def reduce_scatter(self, x: Tensor, axis: str) -> Tensor:
        """x[N]+ax -> x[N/ax], cut along dim 0; N must divide by the group's size."""
        self._book("reduce_scatter", axis, x)
        n = self.mesh.degree(axis)
        if x.shape[0] % n:
            raise ValueError(f"reduce_scatter of {x.shape[0]} rows over {axis}={n}: must divide")
        shard = x.new_empty((x.shape[0] // n, *x.shape[1:]))
        group = self._groups[axis]
        return self._through_host(shard, lambda t: _reduce_scatter(t, x.to(t.device), group))

    def all_to_all(
        self, x: Tensor, axis: str, sizes_in: Sequence[int], sizes_out: Sequence[int]
    ) -> Tensor:
        """Rows sizes_in[j] of x go to member j; sizes_out[j] rows come from it."""
        self._book("all_to_all", axis, x)
        out = x.new_empty((sum(sizes_out), *x.shape[1:]))
        group, came, gone = self._groups[axis], list(sizes_out), list(sizes_in)
        return self._through_host(
            out, lambda t: dist.all_to_all_single(t, x.to(t.device), came, gone, group=group)
        )

    def send(self, x: Tensor, peer: int) -> None:
        """Hand x to `peer`; returns when it is on its way (gloo: when it has been received)."""
        self._book("send", "p2p", x)
        dist.send(x.cpu() if self.staged else x.contiguous(), peer)

    def recv(self, x: Tensor, peer: int) -> Tensor:
        """Fill x with what `peer` sends next."""
        self._book("recv", "p2p", x)
        return self._through_host(x, lambda t: dist.recv(t, peer))

    def barrier(self, axis: str) -> None:
        """Wait until every rank of the group has come."""
        self._book("barrier", axis, torch.empty(0))
        dist.barrier(group=self._groups[axis])

    def counts(self, *, control: bool = False) -> dict[tuple[str, str], tuple[int, int]]:
        """(axis, op) -> (messages, payload bytes), as the ledger wants them."""
        table: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for sent in self.log:
            if sent.control == control:
                count, total = table[sent.axis, sent.op]
                table[sent.axis, sent.op] = (count + 1, total + sent.bytes)
        return dict(table)

    def _book(self, op: str, axis: str, x: Tensor, control: bool = False) -> None:
        self.log.append(Sent(op, axis, x.numel() * x.element_size(), control))

    def _through_host(self, x: Tensor, call: Callable[[Tensor], object]) -> Tensor:
        if not self.staged:
            call(x)
            return x
        host = x.cpu()
        call(host)
        return x.copy_(host)


def _all_gather(whole: Tensor, shard: Tensor, group: dist.ProcessGroup) -> None:
    # torch 2.13 calls it all_gather_single; older ones all_gather_into_tensor
    call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    call(whole, shard.contiguous(), group=group)


def _reduce_scatter(shard: Tensor, x: Tensor, group: dist.ProcessGroup) -> None:
    call = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    call(shard, x.contiguous(), group=group)

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

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core import exchange
from parallel_core.booked import Booked, Counts, Sent
from parallel_core.calls import Register, common_directory
from parallel_core.mesh import Mesh

# torch 2.13 calls them so; older ones have the longer names alone
_all_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

SMALL = 1 << 20
"""Bytes of a whole tensor up to which gloo's own collectives cost less than exchange.py: a pair of
its point-to-point messages takes 2 ms of the processor, however small."""


class Comm:
    """This rank's way to the others.

    `staged` copies CUDA tensors through host memory, for several ranks on one GPU over gloo
    (NCCL refuses that). Calls take a `name`, which tells two tensors of one shape apart: all ranks
    must give the same. CallMismatch is raised by the rank that finds a peer's call differs; ranks
    that share no directory are not compared.
    """

    def __init__(self, mesh: Mesh, rank: int, *, staged: bool = False) -> None:
        self.mesh, self.rank, self.staged = mesh, rank, staged
        self.booked = Booked()
        self._groups: dict[str, dist.ProcessGroup] = {}
        self._directory = common_directory()
        self._registers: dict[str, Register] = {}
        self._pairs: dict[tuple[int, int], Register] = {}
        world_is_taken = False
        for axis in mesh.names:
            for ranks in mesh.groups(axis):
                # new_group is collective: every rank makes every group, in one order. No two axes
                # share one: lanes that meet along each would be taken for one another
                whole = len(ranks) == mesh.size and not world_is_taken
                group = dist.group.WORLD if whole else dist.new_group(list(ranks))
                world_is_taken |= whole
                if rank in ranks and group is not None:
                    self._groups[axis] = group
                    self._register(axis, ranks)

    @property
    def log(self) -> list[Sent]:
        """Every message so far, in the order in which they were handed over."""
        return self.booked.log

    def all_reduce(self, x: Tensor, axis: str, *, name: str = "", control: bool = False) -> Tensor:
        """x+ax -> x, in place."""
        self._book("all_reduce", axis, x, control)
        self._compare("all_reduce", axis, x, name)
        if not x.numel():
            self.booked.over()
            return x
        return self._through_host(x, lambda t: dist.all_reduce(t, group=self._groups[axis]))

    def all_reduce_max(self, x: Tensor, axis: str) -> Tensor:
        """The largest of the group's x, element by element, in place."""
        self._book("all_reduce", axis, x)
        self._compare("all_reduce", axis, x, "max")
        group, largest = self._groups[axis], dist.ReduceOp.MAX
        return self._through_host(x, lambda t: dist.all_reduce(t, largest, group=group))

    def broadcast(self, x: Tensor, axis: str, *, name: str = "") -> Tensor:
        """x of the first rank of the group, on every rank of it, in place."""
        self._book("broadcast", axis, x)
        self._compare("broadcast", axis, x, name)
        first = self.mesh.group(self.rank, axis)[0]
        return self._through_host(x, lambda t: dist.broadcast(t, first, group=self._groups[axis]))

    def all_gather(
        self,
        shard: Tensor,
        axis: str,
        *,
        name: str = "",
        out: Tensor | None = None,
        quick: bool = False,
    ) -> Tensor:
        """x[N/ax] -> x[N], shards joined along dim 0 in group order; into `out` if given.

        `quick`: where gloo's own call is cheaper, by that; its threads may hold the tensors for a
        moment longer than the call lasts.
        """
        self._book("all_gather", axis, shard)
        self._compare("all_gather", axis, shard, name)
        n = self.mesh.degree(axis)
        whole = shard.new_empty((shard.shape[0] * n, *shard.shape[1:])) if out is None else out
        return self._through_host(whole, lambda t: self._gather(t, shard.to(t.device), axis, quick))

    def reduce_scatter(
        self,
        x: Tensor,
        axis: str,
        *,
        name: str = "",
        out: Tensor | None = None,
        quick: bool = False,
    ) -> Tensor:
        """x[N]+ax -> x[N/ax], cut along dim 0; N must divide by the group's size.

        Into `out` if given, which may be the rank's own part of x. `quick` as for all_gather.
        """
        self._book("reduce_scatter", axis, x)
        self._compare("reduce_scatter", axis, x, name)
        n = self.mesh.degree(axis)
        if x.shape[0] % n:
            raise ValueError(f"reduce_scatter of {x.shape[0]} rows over {axis}={n}: must divide")
        shard = x.new_empty((x.shape[0] // n, *x.shape[1:])) if out is None else out
        return self._through_host(shard, lambda t: self._scatter(t, x.to(t.device), axis, quick))

    def all_gather_tiles(self, shard: Tensor, axis: str, whole: Tensor) -> Iterator[int]:
        """all_gather into `whole`, telling of each member's part when it is there. The rank's own
        is there at once, and the others' are on their way by then."""
        sent = self._book("all_gather", axis, shard)
        self._compare("all_gather", axis, shard)
        for number, member in enumerate(self._tiles(shard, axis, whole), start=1):
            if number == self.mesh.degree(axis):
                self.booked.over(sent)
            yield member

    def _tiles(self, shard: Tensor, axis: str, whole: Tensor) -> Iterator[int]:
        ranks, group = self.mesh.group(self.rank, axis), self._groups[axis]
        me = ranks.index(self.rank)
        if self.staged:
            self._through_host(whole, lambda t: self._gather(t, shard.to(t.device), axis))
            yield from sorted(range(len(ranks)), key=lambda member: member != me)
        elif dist.get_backend(group) == "gloo":
            yield from exchange.all_gather_tiles(whole, shard, ranks, group)
        else:
            mine = whole[me * len(shard) : (me + 1) * len(shard)]  # in place for NCCL
            work = dist.all_gather_into_tensor(whole, mine.copy_(shard), group=group, async_op=True)
            yield me
            work.wait()
            yield from (member for member in range(len(ranks)) if member != me)

    def begin_reduce_scatter(self, x: Tensor, axis: str) -> Callable[[], Tensor]:
        """reduce_scatter, begun; what it gives is there when the answer is called."""
        ranks, group = self.mesh.group(self.rank, axis), self._groups[axis]
        if self.staged:
            shard = self.reduce_scatter(x, axis)
            return lambda: shard
        sent = self._book("reduce_scatter", axis, x)
        self._compare("reduce_scatter", axis, x)
        shard = x.new_empty((x.shape[0] // len(ranks), *x.shape[1:]))
        if dist.get_backend(group) == "gloo":
            wait = exchange.begin_reduce_scatter(shard, x, ranks, group)
        else:
            wait = dist.reduce_scatter_tensor(shard, x, group=group, async_op=True).wait

        def finish() -> Tensor:
            wait()
            self.booked.over(sent)
            return shard

        return finish

    def all_to_all(
        self, x: Tensor, axis: str, sizes_in: Sequence[int], sizes_out: Sequence[int]
    ) -> Tensor:
        """Rows sizes_in[j] of x go to member j; sizes_out[j] rows come from it."""
        self._book("all_to_all", axis, x)
        self._compare("all_to_all", axis, x[:0])  # how many rows differs from rank to rank
        members = self.mesh.group(self.rank, axis)
        for peer, going, coming in zip(members, sizes_in, sizes_out, strict=True):
            self._agree((self.rank, peer), x.dtype, (going, *x.shape[1:]), "all_to_all")
            self._agree((peer, self.rank), x.dtype, (coming, *x.shape[1:]), "all_to_all")
        out = x.new_empty((sum(sizes_out), *x.shape[1:]))
        group, came, gone = self._groups[axis], list(sizes_out), list(sizes_in)
        return self._through_host(
            out, lambda t: dist.all_to_all_single(t, x.to(t.device), came, gone, group=group)
        )

    def send(self, x: Tensor, peer: int, *, name: str = "", control: bool = False) -> None:
        """Hand x to `peer`; returns when it is on its way (gloo: when it has been received)."""
        self._book("send", "p2p", x, control)
        self._agree((self.rank, peer), x.dtype, x.shape, name)
        dist.send(x.cpu() if self.staged else x.contiguous(), peer)

    def recv(self, x: Tensor, peer: int, *, name: str = "", control: bool = False) -> Tensor:
        """Fill x with what `peer` sends next."""
        self._book("recv", "p2p", x, control)
        self._agree((peer, self.rank), x.dtype, x.shape, name)
        return self._through_host(x, lambda t: dist.recv(t, peer))

    def recv_any(self, x: Tensor, *, name: str = "", control: bool = False) -> int:
        """Fill x, a CPU tensor, with what comes first from anybody; the rank it came from.

        gloo alone can do this, and it sleeps until something comes.
        """
        self._book("recv", "p2p", x, control)
        peer = int(dist.recv(x))
        self._agree((peer, self.rank), x.dtype, x.shape, name)
        return peer

    def hand_over(self, x: Tensor, peer: int) -> None:
        """Send after a run, outside of any program and of every count."""
        dist.send(x.cpu() if self.staged else x.contiguous(), peer)

    def take_over(self, x: Tensor, peer: int) -> Tensor:
        """Fill x with what `peer` hands over."""
        return self._through_host(x, lambda t: dist.recv(t, peer))

    def barrier(self, axis: str) -> None:
        """Wait until every rank of the group has come."""
        nothing = torch.empty(0)
        self._book("barrier", axis, nothing)
        self._compare("barrier", axis, nothing)
        dist.barrier(group=self._groups[axis])

    def counts(self, *, control: bool = False) -> Counts:
        """(axis, op) -> (messages, payload bytes), as the ledger wants them."""
        return self.booked.counts(control=control)

    def _gather(self, whole: Tensor, shard: Tensor, axis: str, quick: bool = False) -> None:
        group = self._groups[axis]
        if dist.get_backend(group) == "gloo" and (whole.nbytes > SMALL or not quick):
            ranks = self.mesh.group(self.rank, axis)
            return exchange.all_gather(whole, shard.contiguous(), ranks, group)
        apart = whole.untyped_storage().data_ptr() != shard.untyped_storage().data_ptr()
        mine = shard.contiguous() if apart or shard.is_cuda else shard.clone()
        _all_gather(whole, mine, group=group)

    def _scatter(self, shard: Tensor, x: Tensor, axis: str, quick: bool = False) -> None:
        group = self._groups[axis]
        if dist.get_backend(group) != "gloo":
            _reduce_scatter(shard, x.contiguous(), group=group)
        elif x.nbytes > SMALL or not quick:
            ranks = self.mesh.group(self.rank, axis)
            exchange.reduce_scatter(shard, x.contiguous(), ranks, group)
        else:
            parts = torch.empty_like(x, memory_format=torch.contiguous_format)
            dist.all_to_all_single(parts, x.contiguous(), group=group)
            torch.sum(parts.view(self.mesh.degree(axis), *shard.shape), 0, out=shard)

    def _book(self, op: str, axis: str, x: Tensor, control: bool = False) -> Sent:
        return self.booked.begin(op, axis, x.numel() * x.element_size(), control=control)

    def _register(self, axis: str, ranks: Sequence[int]) -> None:
        """Open what the members of a group compare their calls in, if they can share a file."""
        if self._directory is not None:
            path = self._directory / f"calls-{axis}-{ranks[0]}-{ranks[-1]}-{len(ranks)}"
            verbs = ["calls"] * len(ranks)
            what = f"call over {axis}"
            self._registers[axis] = Register(path, ranks, self.rank, what=what, verbs=verbs)

    def _compare(self, op: str, axis: str, x: Tensor, name: str = "") -> None:
        """CallMismatch if another rank of the group has made another call of the same number."""
        if (register := self._registers.get(axis)) is not None:
            register.post(op, x.dtype, x.shape, name)

    def _agree(
        self, ends: tuple[int, int], dtype: torch.dtype, shape: tuple[int, ...], name: str
    ) -> None:
        """The same between the two ends of a message, (source, target)."""
        if self._directory is None or ends[0] == ends[1]:
            return
        pair = self._pairs.get(ends)
        if pair is None:
            path = self._directory / f"calls-p2p-{ends[0]}-{ends[1]}"
            what = f"message from rank {ends[0]} to rank {ends[1]}"
            pair = Register(path, ends, self.rank, what=what, verbs=("sends", "receives"))
            self._pairs[ends] = pair
        pair.post("", dtype, shape, name)

    def _through_host(self, x: Tensor, call: Callable[[Tensor], object]) -> Tensor:
        if not self.staged:
            call(x)
            self.booked.over()
            return x
        host = x.cpu()
        call(host)
        self.booked.over()
        return x.copy_(host)

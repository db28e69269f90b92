"""The conjugate pairs: what a tensor-parallel region does at its edge, forward and backward.

                            forward                                backward
    f   copy_in             x -> x                                 dx+tp -> dx       all_reduce
    g   sum_out             y+tp -> y              all_reduce      dy -> dy
    f'  gather_in           x[S/tp] -> x[S]        all_gather      dx[S]+tp -> dx[S/tp]
    g'  scatter_out         y[S]+tp -> y[S/tp]     reduce_scatter  dy[S/tp] -> dy[S]

f and g belong together: where the forward copies, the backward sums. g's backward is the identity
though g is an all-reduce, because the loss behind it is the same on every rank and counts once.
f' and g' are sequence parallelism's: the same bytes forward, an all-reduce being a reduce-scatter
and an all-gather. Shoeybi et al. 2019, arXiv:1909.08053, section 3; Korthikanti et al. 2022,
arXiv:2205.05198, section 4.2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, contiguous_format
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks

from parallel_core.comm import Comm
from parallel_core.keeping import Keeper, Place

AXIS = "tp"


@dataclass(eq=False)
class Gathered:
    """A gathered input that autograd saves as its shard, and gathers again when it needs it.

    `packed` is the shard as the keeper holds it, from the first time that anything saves it."""

    shard_bsd: Tensor | None
    storage: int
    users: int = 0
    packed: Tensor | Place | None = None
    whole_bsd: Tensor | None = None


@dataclass
class Region:
    """Who shares a tensor-parallel region: this rank's way to the others, its place, how many.

    `sequence` says whether activations outside the region are cut along S (sequence parallel).
    `overlap` says whether what enters is gathered by the products that need it (overlap.py).
    `keeping` says whether a gathered input is to be saved as its shard. `keeper` packs whatever
    else a forward saves.
    """

    comm: Comm
    me: int
    n: int
    sequence: bool = False
    overlap: bool = False
    keeper: Keeper = field(default_factory=Keeper)
    keeping: bool = False
    gathered_now: list[Gathered] = field(default_factory=list)

    @classmethod
    def of(cls, comm: Comm, *, sequence: bool = False, overlap: bool = False) -> Region:
        """The region of this rank's group along tp."""
        place = comm.mesh.coordinate(comm.rank)[AXIS]
        return cls(comm, place, comm.mesh.degree(AXIS), sequence, overlap)

    @contextmanager
    def keeping_shards(self) -> Iterator[None]:
        """Inside, a gathered input is not kept for the backward: its shard is, and one more
        all-gather a region is the price. Korthikanti et al. 2022, section 4.2.2.

        A layer that its backward runs again is outside: what it gathers is used at once."""
        if not self.sequence:
            yield
            return
        self.keeping = True
        with saved_tensors_hooks(self._pack, self._unpack):
            yield
        self.keeping = False
        for entry in self.gathered_now:
            entry.whole_bsd = entry.shard_bsd = None
        self.gathered_now.clear()

    def _pack(self, tensor: Tensor) -> Tensor | Place:
        storage = tensor.untyped_storage().data_ptr()
        for entry in self.gathered_now:
            if entry.storage == storage:
                if entry.packed is None:
                    assert entry.shard_bsd is not None
                    entry.packed = self.keeper.pack(entry.shard_bsd)
                entry.users += 1
                return Place.taken(tensor, entry)
        return self.keeper.pack(tensor)

    def _unpack(self, saved: Tensor | Place) -> Tensor:
        if isinstance(saved, Tensor) or not isinstance(saved.of, Gathered):
            return self.keeper.unpack(saved)
        entry = saved.of
        if entry.whole_bsd is None:
            assert entry.packed is not None
            entry.whole_bsd = self.gathered(self.keeper.unpack(entry.packed))
        view = saved.within(entry.whole_bsd)
        entry.users -= 1
        if not entry.users:
            entry.whole_bsd = None
        return view

    def enter(self, x_bsd: Tensor) -> Tensor:
        """x as every rank of the region needs it: f, or f' under sequence parallelism; x itself
        where the products gather it."""
        if self.overlap:
            return x_bsd
        return gather_in(x_bsd, self) if self.sequence else copy_in(x_bsd, self)

    def leave(self, y_bsd: Tensor) -> Tensor:
        """The sum of the ranks' parts: g, or g' under sequence parallelism."""
        return scatter_out(y_bsd, self) if self.sequence else sum_out(y_bsd, self)

    def summed(self, x: Tensor) -> Tensor:
        """x+tp -> x, a new tensor."""
        return self.comm.all_reduce(x.clone().contiguous(), AXIS)

    def gathered(self, x_bsd: Tensor) -> Tensor:
        """x[B, S/tp, D] -> x[B, S, D]."""
        # a copy even of one row: gloo lets go of what it has sent a moment after the message's end
        mine_sbd = x_bsd.transpose(0, 1).clone(memory_format=contiguous_format)
        whole_sbd = self.comm.all_gather(mine_sbd, AXIS, quick=True)
        return whole_sbd.transpose(0, 1).contiguous()

    def scattered(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D]+tp -> x[B, S/tp, D]."""
        part_sbd = self.comm.reduce_scatter(x_bsd.transpose(0, 1).contiguous(), AXIS, quick=True)
        return part_sbd.transpose(0, 1).contiguous()


def copy_in(x: Tensor, region: Region) -> Tensor:
    """f: x -> x; its gradient is a part on each rank, and is summed."""
    return _apply(_CopyIn, x, region)


def sum_out(y: Tensor, region: Region) -> Tensor:
    """g: y+tp -> y; every rank's gradient is whole already."""
    return _apply(_SumOut, y, region)


def gather_in(x_bsd: Tensor, region: Region) -> Tensor:
    """f': x[B, S/tp, D] -> x[B, S, D]; its gradient is summed and cut again."""
    return _apply(_GatherIn, x_bsd, region)


def scatter_out(y_bsd: Tensor, region: Region) -> Tensor:
    """g': y[B, S, D]+tp -> y[B, S/tp, D]; its gradient is gathered."""
    return _apply(_ScatterOut, y_bsd, region)


def _apply(function: type[Function], x: Tensor, region: Region) -> Tensor:
    apply: Callable[..., Tensor] = function.apply
    return apply(x, region)


class _CopyIn(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, region: Region) -> Tensor:
        ctx.region = region
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.region.summed(grads[0]), None


class _SumOut(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, region: Region) -> Tensor:
        return region.summed(y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


class _GatherIn(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, region: Region) -> Tensor:
        ctx.region = region
        whole = region.gathered(x)
        if region.keeping:
            # held until the block is over, so that nothing else can lie at its address
            entry = Gathered(x.detach(), whole.untyped_storage().data_ptr(), whole_bsd=whole)
            region.gathered_now.append(entry)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.region.scattered(grads[0]), None


class _ScatterOut(Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, region: Region) -> Tensor:
        ctx.region = region
        return region.scattered(y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.region.gathered(grads[0]), None

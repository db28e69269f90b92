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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd import Function

from parallel_core.comm import Comm

AXIS = "tp"


@dataclass(frozen=True)
class Region:
    """Who shares a tensor-parallel region: this rank's way to the others, its place, how many.

    `sequence` says whether activations outside the region are cut along S (sequence parallel).
    """

    comm: Comm
    me: int
    n: int
    sequence: bool = False

    @classmethod
    def of(cls, comm: Comm, *, sequence: bool = False) -> Region:
        """The region of this rank's group along tp."""
        place = comm.mesh.coordinate(comm.rank)[AXIS]
        return cls(comm, place, comm.mesh.degree(AXIS), sequence)

    def enter(self, x_bsd: Tensor) -> Tensor:
        """x as every rank of the region needs it: f, or f' under sequence parallelism."""
        return gather_in(x_bsd, self) if self.sequence else copy_in(x_bsd, self)

    def leave(self, y_bsd: Tensor) -> Tensor:
        """The sum of the ranks' parts: g, or g' under sequence parallelism."""
        return scatter_out(y_bsd, self) if self.sequence else sum_out(y_bsd, self)

    def summed(self, x: Tensor) -> Tensor:
        """x+tp -> x, a new tensor."""
        return self.comm.all_reduce(x.clone().contiguous(), AXIS)

    def gathered(self, x_bsd: Tensor) -> Tensor:
        """x[B, S/tp, D] -> x[B, S, D]."""
        whole_sbd = self.comm.all_gather(x_bsd.transpose(0, 1).contiguous(), AXIS)
        return whole_sbd.transpose(0, 1).contiguous()

    def scattered(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D]+tp -> x[B, S/tp, D]."""
        part_sbd = self.comm.reduce_scatter(x_bsd.transpose(0, 1).contiguous(), AXIS)
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
        return region.gathered(x)

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

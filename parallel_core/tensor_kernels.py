"""What tensor parallelism adds to the kernels: a model of slices, the sums over tp, the tally."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from parallel_core.grads import norm_of
from parallel_core.inner_step import COPIES, WHOLE
from parallel_core.kernels import Reads, TrainKernels
from parallel_core.lanes import Kernel
from parallel_core.params import ParamSpec, cut, param_specs
from parallel_core.program import Instr, Op
from parallel_core.tensor.block import TensorTransformer
from parallel_core.tensor.conjugate import Region


class TensorKernels(TrainKernels):
    """One rank of a tensor-parallel group: its slice of every matrix."""

    def make_model(self, units: Sequence[str]) -> TensorTransformer:
        """The rank's slice of the units it holds."""
        assert self.comm is not None
        self.region = Region.of(self.comm, sequence=self.plan.sp, overlap=self.plan.overlap_tp)
        self.region.keeper = self.keeper
        return TensorTransformer(self.plan, self.region, only=units)

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        return super().table() | {Op.NORM: self.tally}

    def parts(self, axis: str) -> list[Tensor]:
        """The gradients that are parts of a sum over `axis`, of every piece."""
        return [
            view
            for u, views in self.flat.views.items()
            for spec, view in zip(self.flat.specs[u], views, strict=True)
            if axis in spec.partial
        ]

    def all_reduce(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """x+ax -> x; parts that lie in many pieces travel together."""
        if instr.where not in (WHOLE, COPIES):
            return super().all_reduce(instr, reads)
        assert self.comm is not None and instr.axis is not None
        parts = self.parts(instr.axis)
        joined = torch.cat([part.flatten() for part in parts])
        self.comm.all_reduce(joined, instr.axis, name=instr.where)
        for part, summed in zip(
            parts, torch.split(joined, [p.numel() for p in parts]), strict=True
        ):
            part.copy_(summed.view_as(part))
        return [joined.nbytes, *[None] * len(instr.writes)]

    def tally(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """[loss, squared norm]: what is whole, and a head held in copies, counts on one rank."""
        pair = torch.zeros(2, dtype=torch.float64, device=self.device)
        if self.region.me == 0:
            pair[0] += next(reads[value] for value in instr.reads if value.name == "loss")
        if self.measure_norm or self.plan.clip:
            pair[1] = norm_of(self.flat.grads).square()
            for u, views in self.flat.views.items():
                for spec, view in zip(self.flat.specs[u], views, strict=True):
                    if not self._counts(spec):
                        pair[1] -= norm_of(view.flatten()).square()
        return [pair]

    def _counts(self, spec: ParamSpec) -> bool:
        if not spec.cut:
            return self.region.me == 0
        return "kv_copy" not in spec.partial or self.region.me % self.plan.kv_copies == 0

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """New weights, clipped by the norm over all ranks."""
        return self.update_after_tally(instr, reads)

    def collect(self, mine: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on rank 0, from the slices of its tensor-parallel group."""
        assert self.comm is not None
        whole: dict[str, Tensor] = {}
        for spec in param_specs(self.plan) if mine else ():
            own = mine[spec.name]
            if self.rank:
                self.comm.hand_over(own, 0)
                continue
            whole[spec.name] = own.new_empty(spec.shape)
            for me, rank in enumerate(self.plan.mesh.group(0, "tp")):
                came = own if rank == 0 else self.comm.take_over(torch.empty_like(own), rank)
                part = cut(self.plan, spec, me)
                if part is None:
                    whole[spec.name].copy_(came)
                elif part.real:
                    there = whole[spec.name].narrow(part.dim, part.start, part.real)
                    there.copy_(came.narrow(part.dim, 0, part.real))
        return whole

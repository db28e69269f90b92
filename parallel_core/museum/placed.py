"""Switches: positions, weights and microbatches that are not where they belong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from parallel_core import values as v
from parallel_core.kernels import TrainKernels
from parallel_core.model import draw
from parallel_core.program import Instr, Value
from parallel_core.summing import Reads


class PositionsContiguous(TrainKernels):
    """Tokens are dealt out in zigzag, positions counted on as if they were neighbours."""

    def load(self, step: int) -> dict[Value, Any]:
        """The rank's tokens; its positions follow on each other."""
        holds, here = super().load(step), self.plan.seq_here
        if self.plan.cp == 1:
            return holds
        first = self.plan.mesh.coordinate(self.rank)["cp"] * here
        positions = torch.arange(first, first + here, device=self.device)
        for mb, micro in self.micro.items():
            place = replace(micro.place, positions=positions)
            holds[v.ids(mb)] = self.micro[mb] = replace(micro, place=place)
        return holds


class LastMicrobatchOnly(TrainKernels):
    """Every microbatch finds its gradients emptied, and the update finds the last one's."""

    def run_back(self, instr: Instr, reads: Reads) -> dict[str, Any]:
        """Each backward makes new gradients in the place of the old."""
        self._begun.clear()
        return super().run_back(instr, reads)


class StagesSeededAlike(TrainKernels):
    """Every stage seeds its generator alike and draws its layers one after another."""

    def lay_out(self) -> None:
        """The usual buffers; a stage's layers get the weights of as many layers from the first."""
        super().lay_out()
        parameters = self.flat.parameters
        mine = [
            (int(spec.unit.removeprefix("layer")), spec, weight)
            for u, specs in self.flat.specs.items()
            for spec, weight in zip(specs, parameters[u], strict=True)
            if spec.unit.startswith("layer")
        ]
        first = min((number for number, _, _ in mine), default=0)
        for number, spec, weight in mine if first else ():
            twin = spec.name.replace(spec.unit, f"layer{number - first}", 1)
            drawn = draw(replace(spec, name=twin), self.plan.seed, 0, spec.numel)
            weight.data.copy_(drawn.view(spec.shape))

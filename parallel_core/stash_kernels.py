"""Asynchronous PipeDream on real tensors: every update makes new weights, old ones stay for their
backward.

A forward's graph holds the very parameters it used. An update therefore writes into a new buffer
and gives the model new parameters on it: the old ones live exactly as long as a graph needs them.
That is weight stashing (Narayanan et al. 2019, arXiv:1806.03377, 3.3), with nothing to look up.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from parallel_core import values as v
from parallel_core.comm import Comm
from parallel_core.crossing import Kept
from parallel_core.grads import norm_of, settle_in
from parallel_core.model import IGNORED
from parallel_core.plan import Plan
from parallel_core.program import Instr, Value
from parallel_core.stage_kernels import StageKernels
from parallel_core.summing import Reads


class StashKernels(StageKernels):
    """A stage that is updated after every microbatch. `copies` is the most versions ever alive."""

    def __init__(self, plan: Plan, rank: int, comm: Comm | None, device: torch.device) -> None:
        super().__init__(plan, rank, comm, device)
        self._squares = torch.zeros((), dtype=torch.float64, device=device)
        self._versions = [weakref.ref(self._weights()[0])]

    def _weights(self) -> list[nn.Parameter]:
        return [weight for weights in self.flat.parameters.values() for weight in weights]

    def load(self, step: int) -> dict[Value, Any]:
        """As for any rank; each microbatch is a minibatch, its loss divided by its own tokens."""
        holds = super().load(step)
        self._squares.zero_()
        labels = self.sampler.batch(step).labels.reshape(
            self.plan.dp, self.plan.microbatches, self.plan.rows_per_microbatch, -1
        )
        for mb, micro in self.micro.items():
            valid = int((labels[:, mb] != IGNORED).sum())
            holds[v.ids(mb)] = self.micro[mb] = replace(micro, valid_tokens=valid)
        return holds | {v.version(u, 0): None for u in self.flat.specs}

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """As in one process; keeps hold of the weights it used."""
        kept, *out = super().forward(instr, reads)
        return replace(kept, more={**kept.more, "weights": self._weights()}), *out

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Through the weights that the forward used; every microbatch's gradient is a new one."""
        kept: Kept = next(reads[value] for value in instr.reads if value.name in v.KEPT)
        for weight in kept.more["weights"]:
            weight.grad = None
        return super().backward(instr, reads)

    def begin(self, u: int) -> None:
        """Done by `backward`, for the weights that the microbatch really used."""

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The next version of the weights, in a buffer of its own."""
        for start, stop in self.counted if self.measure_norm else ():
            self._squares += norm_of(self.flat.grads[start:stop]).square()
        self.flat.params = self.flat.params.clone()
        for i, (weights, _) in enumerate(self.flat.parts(whole=not self.plan.mixed)):
            self.update.move_to(i, weights)
        self.update.step()
        for u, specs in self.flat.specs.items():
            at = self.flat.bounds[u][0]
            for i, spec in enumerate(specs):
                new = nn.Parameter(self.flat.params[at : at + spec.numel].view(spec.shape))
                at += spec.numel
                settle_in(new, self.flat.views[u][i])
                owner, _, name = spec.name.rpartition(".")
                setattr(self.model.get_submodule(owner), name, new)
                self.flat.parameters[u][i] = new
        self._versions.append(weakref.ref(self._weights()[0]))
        self._versions = [ref for ref in self._versions if ref() is not None]
        self.copies = max(self.copies, len(self._versions))
        return [None] * len(instr.writes)

    def tally(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """[mean loss, mean squared norm] of the step's minibatches."""
        pair = torch.zeros(2, dtype=torch.float64, device=self.device)
        if self.brings_loss:
            for value in instr.reads:
                pair[0] += reads[value] / self.plan.microbatches
        pair[1] = self._squares / self.plan.microbatches
        return [pair]

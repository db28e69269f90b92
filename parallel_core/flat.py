"""Weights and gradients in two flat buffers, units in backward order.

    [ head | layer3 | layer2 | layer1 | layer0 | embed ]

A bucket of units that the backward completes one after another is then one contiguous slice: it
is reduced in place, without a copy, and the optimizer walks one tensor instead of hundreds.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from parallel_core.data.step import specs_by_unit
from parallel_core.params import ParamSpec
from parallel_core.plan import Plan


class Flat:
    """The buffers of one model replica. `params` and `grads` are [numel] in the plan's dtype."""

    def __init__(self, plan: Plan, model: nn.Module, device: torch.device) -> None:
        dtype = getattr(torch, plan.dtype)
        self.specs = specs_by_unit(plan)
        numel = sum(spec.numel for unit in self.specs for spec in unit)
        self.params = torch.empty(numel, dtype=dtype, device=device)
        self.grads = torch.empty(numel, dtype=dtype, device=device)
        self.bounds: list[tuple[int, int]] = [(0, 0)] * len(self.specs)
        self.parameters: list[list[nn.Parameter]] = [[] for _ in self.specs]
        self.views: list[list[Tensor]] = [[] for _ in self.specs]
        self._named: dict[str, tuple[int, int, ParamSpec]] = {}
        self._lay_out(dict(model.named_parameters()))

    def _lay_out(self, weights: dict[str, nn.Parameter]) -> None:
        at = 0
        for u in reversed(range(len(self.specs))):
            start = at
            for spec in self.specs[u]:
                weight, end = weights[spec.name], at + spec.numel
                weight.data = self.params[at:end].view(spec.shape)
                self.parameters[u].append(weight)
                self.views[u].append(self.grads[at:end].view(spec.shape))
                self._named[spec.name] = (at, end, spec)
                at = end
            self.bounds[u] = (start, at)

    def span(self, units: tuple[int, ...]) -> Tensor:
        """The gradients of neighbouring units, one contiguous slice [numel of the units]."""
        bounds = sorted(self.bounds[u] for u in units)
        assert all(a[1] == b[0] for a, b in pairwise(bounds))
        return self.grads[bounds[0][0] : bounds[-1][1]]

    def named(self, buffer: Tensor) -> dict[str, Tensor]:
        """Copies of a buffer's pieces by parameter name, in their own shapes."""
        return {
            name: buffer[start:end].view(spec.shape).clone()
            for name, (start, end, spec) in self._named.items()
        }

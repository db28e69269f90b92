"""Weights and gradients in two flat buffers, pieces in backward order.

    [ head | layer3 | layer2 | layer1 | layer0 | embed ]      or stages, those the rank holds
    [ head | layer1 | layer0 | embed | layer1.experts | layer0.experts ]  where experts are shared

A bucket of pieces that the backward completes one after another is then one contiguous slice: it
is reduced in place, without a copy, and the optimizer walks one tensor instead of hundreds.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from parallel_core.params import ParamSpec
from parallel_core.pieces import TABLE, copies_table, held_pieces, pieces, table_spec
from parallel_core.plan import Plan


class Flat:
    """The buffers of one rank. `params` and `grads` are [numel] in the plan's dtype.

    `specs`, `bounds`, `parameters` and `views` go by the number of the piece.
    """

    def __init__(self, plan: Plan, model: nn.Module, device: torch.device, rank: int = 0) -> None:
        dtype = getattr(torch, plan.dtype)
        held = held_pieces(plan, rank)
        every = pieces(plan)
        order = sorted(held, key=lambda u: (every[u].holds_experts, -u))
        self.specs = {u: every[u].specs for u in order}
        if copies_table(plan, rank):
            self.specs[TABLE] = (table_spec(plan),)
        numel = sum(spec.numel for unit in self.specs.values() for spec in unit)
        self.params = torch.empty(numel, dtype=dtype, device=device)
        self.grads = torch.empty(numel, dtype=dtype, device=device)
        self.bounds: dict[int, tuple[int, int]] = {}
        self.parameters: dict[int, list[nn.Parameter]] = {u: [] for u in self.specs}
        self.views: dict[int, list[Tensor]] = {u: [] for u in self.specs}
        self._named: dict[str, tuple[int, int, ParamSpec]] = {}
        self._lay_out(dict(model.named_parameters()))

    def _lay_out(self, weights: dict[str, nn.Parameter]) -> None:
        at = 0
        for u, specs in self.specs.items():
            start = at
            for spec in specs:
                weight, end = weights[spec.name], at + spec.numel
                weight.data = self.params[at:end].view(spec.shape)
                self.parameters[u].append(weight)
                self.views[u].append(self.grads[at:end].view(spec.shape))
                self._named[spec.name] = (at, end, spec)
                at = end
            self.bounds[u] = (start, at)

    def parts(self, *, whole: bool) -> list[tuple[Tensor, Tensor]]:
        """(weights, gradient) for the optimizer: both buffers whole, or piece by piece."""
        bounds = [(0, self.params.numel())] if whole else [*self.bounds.values()]
        return [(self.params[start:end], self.grads[start:end]) for start, end in bounds]

    def span(self, units: tuple[int, ...]) -> Tensor:
        """The gradients of neighbouring pieces, one contiguous slice [numel of the pieces]."""
        bounds = sorted(self.bounds[u] for u in units)
        assert all(a[1] == b[0] for a, b in pairwise(bounds))
        return self.grads[bounds[0][0] : bounds[-1][1]]

    def named(self, buffer: Tensor) -> dict[str, Tensor]:
        """Copies of a buffer's pieces by parameter name, in their own shapes."""
        return {
            name: buffer[start:end].view(spec.shape).clone()
            for name, (start, end, spec) in self._named.items()
        }

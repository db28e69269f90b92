"""The optimizer over flat buffers, with float32 masters where the weights are bfloat16.

torch.optim's fused kernels do the arithmetic; one tensor a buffer instead of one a parameter.
Master weights: Micikevicius et al. 2018, arXiv:1710.03740, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from parallel_core.flat import Flat
from parallel_core.plan import Optimizer, Plan


def _torch_optimizer(plan: Plan, param: Tensor) -> torch.optim.Optimizer:
    if plan.optimizer == Optimizer.SGD:
        return torch.optim.SGD([param], lr=plan.learning_rate, fused=True)
    return torch.optim.AdamW([param], lr=plan.learning_rate, fused=True)


class Update:
    """Turns the summed gradient of a Flat into new weights, in place."""

    def __init__(self, plan: Plan, flat: Flat) -> None:
        self.flat, self.mixed = flat, plan.mixed
        bounds = [*flat.bounds.values()] if plan.mixed else [(0, flat.params.numel())]
        self._parts = bounds
        self._masters = [nn.Parameter(self._of(flat.params, part)) for part in bounds]
        self._optimizers = [_torch_optimizer(plan, master) for master in self._masters]

    def _of(self, buffer: Tensor, part: tuple[int, int]) -> Tensor:
        piece = buffer[part[0] : part[1]]
        return piece.float() if self.mixed else piece

    def move_to(self, params: Tensor) -> None:
        """Go on in another buffer of weights, a copy of the one so far (asynchronous updates)."""
        self.flat.params = params
        if not self.mixed:
            for master, part in zip(self._masters, self._parts, strict=True):
                master.data = self._of(params, part)

    def step(self) -> None:
        """One update. Mixed precision goes unit by unit, so that only one unit's float32
        gradient exists at a time."""
        for part, master, optimizer in zip(
            self._parts, self._masters, self._optimizers, strict=True
        ):
            master.grad = self._of(self.flat.grads, part)
            optimizer.step()
            if self.mixed:
                self.flat.params[part[0] : part[1]].copy_(master.detach())
                master.grad = None

    def tensors(self) -> Iterator[Tensor]:
        """The state that stays: masters and moments (step counters are scalars and left out)."""
        if self.mixed:
            yield from self._masters
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                yield from (t for t in state.values() if isinstance(t, Tensor) and t.ndim)

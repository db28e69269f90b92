"""The optimizer over flat buffers, with float32 masters where the weights are bfloat16.

torch.optim's fused kernels do the arithmetic; one tensor a buffer instead of one a parameter.
Whatever is updated comes as parts: a whole buffer, a unit of it, or a rank's shard.
Master weights: Micikevicius et al. 2018, arXiv:1710.03740, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from parallel_core.plan import Optimizer, Plan


def _torch_optimizer(plan: Plan, param: Tensor) -> torch.optim.Optimizer:
    if plan.optimizer == Optimizer.SGD:
        return torch.optim.SGD([param], lr=plan.learning_rate, fused=True)
    return torch.optim.AdamW([param], lr=plan.learning_rate, fused=True)


Part = tuple[Tensor, Tensor]
"""Weights and their gradient, two flat tensors of one length."""


class Update:
    """Turns summed gradients into new weights, in place, part by part.

    Mixed precision takes many parts, so that only one part's float32 gradient exists at a time.
    """

    def __init__(self, plan: Plan, parts: Sequence[Part]) -> None:
        self.mixed = plan.mixed
        self._parts = list(parts)
        self._masters = [nn.Parameter(w.float() if plan.mixed else w) for w, _ in parts]
        self._optimizers = [_torch_optimizer(plan, master) for master in self._masters]

    def move_to(self, i: int, weights: Tensor) -> None:
        """Part i goes on in another buffer, a copy of the one so far (asynchronous updates)."""
        self._parts[i] = (weights, self._parts[i][1])
        if not self.mixed:
            self._masters[i].data = weights

    def scale(self, factor: float) -> None:
        """Multiply every gradient (clipping)."""
        for _, grads in self._parts:
            grads.mul_(factor)

    def step(self) -> None:
        """One update of every part."""
        for (weights, grads), master, optimizer in zip(
            self._parts, self._masters, self._optimizers, strict=True
        ):
            master.grad = grads.float() if self.mixed else grads
            optimizer.step()
            if self.mixed:
                weights.copy_(master.detach())
                master.grad = None

    def tensors(self) -> Iterator[Tensor]:
        """The state that stays: masters and moments (step counters are scalars and left out)."""
        if self.mixed:
            yield from self._masters
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                yield from (t for t in state.values() if isinstance(t, Tensor) and t.ndim)


def clip_factor(norm: float, most: float) -> float:
    """What a gradient of this norm is multiplied by, so that its norm is at most `most`.

    torch.nn.utils.clip_grad_norm_ has the same 1e-6.
    """
    return min(1.0, most / (norm + 1e-6))

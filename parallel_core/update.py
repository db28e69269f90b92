"""The optimizer over flat buffers, with float32 masters where the weights are bfloat16.

torch.optim's fused kernels do the arithmetic; one tensor a buffer instead of one a parameter.
Whatever is updated comes as parts: a whole buffer, a unit of it, or a rank's shard.
Master weights: Micikevicius et al. 2018, arXiv:1710.03740, section 3.1.

`moments="bfloat16"` halves AdamW's state. The price: bfloat16 keeps 8 bits, and the second moment
moves by a thousandth of its distance to the squared gradient a step, so that it stands still once
it is within a few times of it: 2^-9 of its own size is the smallest step that it can make.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from parallel_core.plan import Optimizer, Plan


def _optimizer(plan: Plan, param: Tensor) -> torch.optim.Optimizer | AdamWHalfMoments:
    if plan.optimizer == Optimizer.SGD:
        return torch.optim.SGD([param], lr=plan.learning_rate, fused=True)
    if plan.moments == "bfloat16":
        return AdamWHalfMoments(param, plan.learning_rate)
    return torch.optim.AdamW([param], lr=plan.learning_rate, fused=True)


class AdamWHalfMoments:
    """AdamW with torch's defaults whose two moments are kept in bfloat16, rounded to nearest.

    The arithmetic is in the type of the weights, which is float32 or wider; a chunk at a time, so
    that no moment is ever whole in it. Loshchilov & Hutter 2017, arXiv:1711.05101.
    """

    CHUNK = 1 << 16
    BETA1, BETA2, EPS, DECAY = 0.9, 0.999, 1e-8, 1e-2

    def __init__(self, param: Tensor, lr: float) -> None:
        self._param, self._lr, self._updates = param, lr, 0
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def step(self) -> None:
        """One update of the weights, in place."""
        self._updates += 1
        param = self._param
        if not self.state:
            like = param.detach()
            self.state[param] = {n: torch.zeros_like(like, dtype=torch.bfloat16) for n in "mv"}
        kept = self.state[param]
        assert param.grad is not None
        flat = (param.detach(), param.grad, kept["m"], kept["v"])
        for w, g, *moments in zip(
            *(torch.split(t.view(-1), self.CHUNK) for t in flat), strict=True
        ):
            self._update(w, g, moments)

    def _update(self, w: Tensor, g: Tensor, kept: Sequence[Tensor]) -> None:
        m, v = (moment.to(w.dtype) for moment in kept)
        m.lerp_(g, 1 - self.BETA1)
        v.mul_(self.BETA2).addcmul_(g, g, value=1 - self.BETA2)
        for moment, new in zip(kept, (m, v), strict=True):
            moment.copy_(new)
        w.mul_(1 - self._lr * self.DECAY)
        scale = (1 - self.BETA2**self._updates) ** 0.5
        root = v.sqrt_().div_(scale).add_(self.EPS)
        w.addcdiv_(m, root, value=-self._lr / (1 - self.BETA1**self._updates))


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
        self._optimizers = [_optimizer(plan, master) for master in self._masters]

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

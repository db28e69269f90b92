"""The pieces of a transformer block that look at one token at a time.

Shapes: B batch, S sequence, D model, F hidden width of the MLP.

    linear      x[B, S, in] w[out, in]' + b[out] -> [B, S, out]
    RMSNorm     x / rms(x) * w[D]                        arXiv:1910.07467   (llama)
    LayerNorm   (x - mean(x)) / std(x) * w[D] + b[D]     arXiv:1607.06450   (gpt)
    MLP         down(gelu(up x))                         arXiv:1606.08415   (gpt)
    SwiGLU      down(silu(gate x) * up x)                arXiv:2002.05202   (llama)

Weights are made empty, in the plan's dtype, on torch's default device: `init_weights` fills them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallel_core.plan import Dialect, Plan

EPS = 1e-5


def empty(plan: Plan, *shape: int) -> nn.Parameter:
    """A parameter of the plan's dtype with no values yet."""
    return nn.Parameter(torch.empty(shape, dtype=getattr(torch, plan.dtype)))


def wide(x: Tensor) -> Tensor:
    """`x` in at least float32: bfloat16 is widened, float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Linear(nn.Module):
    """y = x w' + b, with w[out, in]; the bias exists in the gpt dialect only, if it is wanted.

    `product(x, w, b)` is torch's, unless the backward is to be split (deferred.py).
    """

    product: Callable[..., Tensor] = staticmethod(F.linear)

    def __init__(self, plan: Plan, rows: int, columns: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = empty(plan, rows, columns)
        biased = bias and plan.model.dialect == Dialect.GPT
        self.bias = empty(plan, rows) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        """x[..., in] -> [..., out]."""
        return self.product(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Every token scaled to unit root mean square, in at least float32, then by w[D]."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.weight = empty(plan, plan.model.hidden)

    def forward(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D] -> [B, S, D]."""
        h_bsd = wide(x_bsd)
        h_bsd = h_bsd * torch.rsqrt(h_bsd.square().mean(-1, keepdim=True) + EPS)
        return self.weight * h_bsd.to(x_bsd.dtype)


class LayerNorm(nn.Module):
    """Every token shifted to mean 0 and scaled to variance 1, then by w[D] and b[D].

    torch's kernel computes bfloat16 inputs in float32 inside.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.weight = empty(plan, plan.model.hidden)
        self.bias = empty(plan, plan.model.hidden)

    def forward(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D] -> [B, S, D]."""
        return F.layer_norm(x_bsd, self.weight.shape, self.weight, self.bias, EPS)


def norm(plan: Plan) -> RMSNorm | LayerNorm:
    """The norm of the plan's dialect."""
    return RMSNorm(plan) if plan.model.dialect == Dialect.LLAMA else LayerNorm(plan)


class GeluMLP(nn.Module):
    """The gpt dialect's MLP, with the tanh form of GELU.

    `shared` makes the MLP that stands for a layer's shared experts: wider, and without biases.
    """

    def __init__(self, plan: Plan, *, shared: bool = False) -> None:
        super().__init__()
        inner, outer = inner_width(plan, shared), plan.model.hidden
        self.up = Linear(plan, inner, outer, bias=not shared)
        self.down = Linear(plan, outer, inner, bias=not shared)

    def into(self, x_bsd: Tensor) -> tuple[Tensor, ...]:
        """x[B, S, D] -> up[B, S, F]."""
        return (self.up(x_bsd),)

    def forward(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D] -> [B, S, D], before it is added to the residual stream."""
        (up_bsf,) = self.into(x_bsd)
        h_bsf = F.gelu(up_bsf, approximate="tanh")
        out_bsd: Tensor = self.down(h_bsf)
        return out_bsd


class SwiGLU(nn.Module):
    """The llama dialect's MLP: one projection gates the other; `shared` as for GeluMLP."""

    def __init__(self, plan: Plan, *, shared: bool = False) -> None:
        super().__init__()
        inner, outer = inner_width(plan, shared), plan.model.hidden
        self.gate = Linear(plan, inner, outer)
        self.up = Linear(plan, inner, outer)
        self.down = Linear(plan, outer, inner)

    def into(self, x_bsd: Tensor) -> tuple[Tensor, ...]:
        """x[B, S, D] -> gate and up [B, S, F]."""
        return self.gate(x_bsd), self.up(x_bsd)

    def forward(self, x_bsd: Tensor) -> Tensor:
        """x[B, S, D] -> [B, S, D], before it is added to the residual stream."""
        gate_bsf, up_bsf = self.into(x_bsd)
        h_bsf = F.silu(gate_bsf) * up_bsf
        out_bsd: Tensor = self.down(h_bsf)
        return out_bsd


def inner_width(plan: Plan, shared: bool) -> int:
    """F of a layer's MLP, or of the one that stands for its shared experts."""
    return plan.model.shared_width if shared else plan.model.mlp


def mlp(plan: Plan, *, shared: bool = False) -> GeluMLP | SwiGLU:
    """The MLP of the plan's dialect, or its shared experts."""
    return (SwiGLU if plan.model.dialect == Dialect.LLAMA else GeluMLP)(plan, shared=shared)

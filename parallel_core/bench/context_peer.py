"""torch's ring attention as one layer with a backward, for a fair contest.

torch's public context manager replaces attention inside a model; the template underneath is what
computes. `alltoall` sends keys and values on, hop by hop; `allgather` fetches all of them before
the second tile. Gradients of keys and values go hop by hop in both. With `zigzag` (torch: load
balance) rank r holds chunks r and 2n-1-r of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.distributed.tensor.experimental._context_parallel import _attention

_theirs: Any = _attention  # private, and typed for other kernels than the CPU's
_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def torch_ring(*, zigzag: bool, rotation: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """q, k, v[B, H, S/cp, K] -> a[B, H, S/cp, K] over all ranks, causal; float32."""
    apply: Callable[..., Tensor] = _TorchRing.apply

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # settings of the whole process; a turn has its forward and its backward under them
        _theirs.set_rotate_method(rotation)
        _theirs._cp_options.enable_load_balance = zigzag
        return apply(q, k, v)

    return attend


class _TorchRing(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        a, lse, *_ = _theirs._templated_ring_attention(
            dist.group.WORLD, 2, _forward, q, k, v, is_causal=True
        )
        ctx.save_for_backward(q, k, v, a, lse)
        made: Tensor = a
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, a, lse = ctx.saved_tensors
        dq, dk, dv, *_ = _theirs._templated_ring_attention_backward(
            dist.group.WORLD, 2, _backward, grads[0], "grad_out", q, k, v, a, lse,
            is_causal=True, dropout_p=0.0,
        )  # fmt: skip
        return dq, dk, dv

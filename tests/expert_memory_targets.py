"""On real ranks: runs of models of experts, as they are or with a tensor kept for nothing."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd import Function

from parallel_core import moe, runtime
from parallel_core.plan import Plan
from parallel_core.rank import Rank


class Keep(Function):
    """The identity, with a copy saved for nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.clone())
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def _kept_twice(self: Any, x_rd: Tensor, counts: Any) -> Tensor:
    return _experts(self, Keep.apply(x_rd), counts)


_experts = moe.Experts.forward
FAULTS = {"": nullcontext, "rows": lambda: patch.object(moe.Experts, "forward", _kept_twice)}


class NoSources:
    """Mixed into kernels: to find them in the files takes longer than a tiny model's step."""

    def sources(self) -> dict[str, str]:
        return {}


def train_all(
    rank: Rank, *, plans: list[dict[str, Any]], steps: int, fault: str = ""
) -> list[dict[str, Any]]:
    """Every plan in turn in the same processes; each tells its number before its events."""
    results = []
    with FAULTS[fault]():
        for number, flat in enumerate(plans):
            made: Any = type("Quick", (NoSources, runtime.kernels_of(Plan.of(**flat))), {})
            rank.emit({"event": "plan", "rank": rank.rank, "number": number})
            torch.manual_seed(0)
            results.append(runtime.train(rank, plan=flat, steps=steps, make=made, parity=False))
    return results

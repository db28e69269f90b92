"""On real ranks: runs of models of experts, as they are or with a tensor kept for nothing."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.autograd import Function

from parallel_core import moe, runtime
from parallel_core.crossing import Skip
from parallel_core.deferred import Deferred
from parallel_core.kernel_choice import kernels_of
from parallel_core.plan import Plan
from parallel_core.program import Instr
from parallel_core.rank import Rank
from parallel_core.summing import Reads


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


class Quick:
    """Mixed into kernels: no look for sources, which takes longer than a tiny model's step; instead
    it tells what waited for a W, and what each value weighed that tokens travel in or go past."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.waits: dict[tuple[str, int], int] = {}
        self.weighed: dict[tuple[str, int, int], int] = {}

    def sources(self) -> dict[str, Any]:
        waits = [[*place, size] for place, size in self.waits.items()]
        return {"held": waits, "values": [[*at, size] for at, size in self.weighed.items()]}

    def input_half(self, instr: Instr, reads: Reads) -> Any:
        made = super().input_half(instr, reads)
        (queue,) = (x for x in made if isinstance(x, Deferred))
        self.waits[instr.where, instr.mb] = queue.bytes
        return made

    def table(self) -> dict[Any, Any]:
        return {op: self._weighing(kernel) for op, kernel in super().table().items()}

    def _weighing(self, kernel: Any) -> Any:
        def run(instr: Instr, reads: Reads) -> Any:
            made = list(kernel(instr, reads))
            for value, x in zip(reversed(instr.writes), reversed(made), strict=False):
                if value.name in ("act", "dact", "rows", "drows", "skip", "dskip"):
                    parts = x.tensors if isinstance(x, Skip) else x
                    parts = [parts] if isinstance(parts, Tensor) else parts or ()
                    self.weighed[value.name, *value.at] = sum(part.nbytes for part in parts)
            return made

        return run


def train_all(
    rank: Rank, *, plans: list[dict[str, Any]], steps: int, fault: str = ""
) -> list[dict[str, Any]]:
    """Every plan in turn in the same processes; each tells its number before its events."""
    results = []
    with FAULTS[fault]():
        for number, flat in enumerate(plans):
            made: Any = type("Made", (Quick, kernels_of(Plan.of(**flat))), {})
            rank.emit({"event": "plan", "rank": rank.rank, "number": number})
            results.append(runtime.train(rank, plan=flat, steps=steps, make=made, parity=False))
    return results

"""What ranks add up: gradients over replicas, parts over a model's ranks, the tally.

all_reduce dp      a contiguous slice of the flat gradients, in place (or each parameter's)
all_reduce tp      parts that lie in many pieces, in one message
norm               (loss, squared norm): what several ranks of a model hold counts on one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from parallel_core.comm import Comm
from parallel_core.flat import Flat
from parallel_core.gathering import parts_over, sum_together
from parallel_core.grads import norm_of
from parallel_core.inner_step import COPIES, LOADS, WHOLE
from parallel_core.ledger import CONTROL
from parallel_core.plan import Plan
from parallel_core.program import Instr, Value

Reads = Mapping[Value, Any]


class SumKernels:
    """The sums of one rank. `counted` are the runs of its gradients that it counts in a norm."""

    plan: Plan
    rank: int
    comm: Comm | None
    device: torch.device
    flat: Flat
    counted: list[tuple[int, int]]
    measure_norm: bool

    def all_reduce(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """x+ax -> x: scalars, parts that lie in many pieces, each parameter of a piece in turn, or
        a slice of many pieces."""
        assert self.comm is not None and instr.axis is not None
        if instr.where == LOADS:
            return self.sum_loads(instr)
        if instr.where in CONTROL:
            total = reads[instr.reads[0]].clone()
            self.comm.all_reduce(total, instr.axis, name=instr.where, control=True)
            return total.nbytes, total
        if instr.where in (WHOLE, COPIES):
            return sum_together(self.parts(instr.axis), self.flat.grads, self.comm, instr)
        if instr.inner:
            tensors = [self.flat.views[m.value.at[0]][m.value.at[1]] for m in instr.inner]
        else:
            tensors = [self.gradient(instr)]
        for tensor in tensors:
            self.comm.all_reduce(tensor, instr.axis, name=instr.where)
        return sum(t.nbytes for t in tensors), *([True] * len(instr.writes))

    def parts(self, axis: str) -> list[Tensor]:
        """The gradients that are parts of a sum over a model axis."""
        return parts_over(self.flat, axis)

    def sum_loads(self, instr: Instr) -> Sequence[Any]:
        """How many tokens of the step asked for each expert, over all ranks."""
        raise NotImplementedError("a router's loads are summed by ExpertKernels")

    @property
    def brings_loss(self) -> bool:
        """Whether the rank is the first of those of one model that have the same loss."""
        place = self.plan.mesh.coordinate(self.rank)
        return not place.get("tp", 0) and not (self.plan.ep > 1 and place["ep"])

    def tally(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """[loss, squared norm]: float64; what several ranks of a model hold counts on one."""
        pair = torch.zeros(2, dtype=torch.float64, device=self.device)
        if self.brings_loss:
            for value in instr.reads:
                if value.name == "loss":
                    pair[0] += reads[value]
        for start, stop in self.counted if self.measure_norm or self.plan.clip else ():
            pair[1] += norm_of(self.flat.grads[start:stop]).square()
        return [pair]

    def gradient(self, instr: Instr) -> Tensor:
        """The slice of the flat gradients that an all-reduce sums."""
        return self.flat.span(tuple(value.at[0] for value in instr.writes))

"""What a pipeline adds to the kernels: messages between stages, the two halves of a backward, the
two copies of a weight.

    send, recv   x[B, S, D] to the next stage, or its gradient to the one before
    I            autograd from the graph's end, as B does, but products queue their weight half:
                 the forward was told so, since a B in two halves would cost a few percent more
    W            runs that queue
    add          the other copy's gradient into one's own, in place
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from parallel_core import values as v
from parallel_core.comm import Comm
from parallel_core.crossing import Kept
from parallel_core.data.sharded import TABLE_NAME
from parallel_core.deferred import Deferred
from parallel_core.kernels import TrainKernels, activation_shape
from parallel_core.lanes import Kernel
from parallel_core.pieces import TABLE
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Value
from parallel_core.summing import Reads


class StageKernels(TrainKernels):
    """One rank of a pipeline: its stages, and what it sends to its neighbours."""

    def __init__(self, plan: Plan, rank: int, comm: Comm | None, device: torch.device) -> None:
        super().__init__(plan, rank, comm, device)
        self.halved = {(t.mb, t.stage) for _, t in plan.pipeline if t.op is Op.I}

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        return super().table() | {
            Op.I: self.input_half,
            Op.W: self.weight_half,
            Op.SEND: self.send,
            Op.RECV: self.receive,
            Op.ADD: self.add,
        }

    def load(self, step: int) -> dict[Value, Any]:
        """What the rank holds at the start of a step."""
        return super().load(step) | {v.TABLE: None}

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """As in one process; where I will follow, products leave their weight half to a queue."""
        stage = self.pieces[self.numbers[instr.where]].stage
        if self.split is None or (instr.mb, stage) not in self.halved:
            return super().forward(instr, reads)
        queue = Deferred()
        with self.split.into(queue):
            kept, *out = super().forward(instr, reads)
        return replace(kept, more={"queue": queue}), *out

    def input_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """dy -> (dx, what the weight half needs)."""
        assert instr.mb is not None
        made = self.run_back(instr, reads)
        kept: Kept = next(reads[value] for value in instr.reads if value.name in v.KEPT)
        made["held"] = kept.more["queue"]
        return [made.get(value.name, True) for value in instr.writes]

    def weight_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The queued products' gradients, accumulated in the flat buffer."""
        assert instr.mb is not None
        reads[v.held(instr.mb, self.numbers[instr.where])].run()
        return [True] * len(instr.writes)

    def send(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """An activation, its gradient, or the gradient of weights that have a copy elsewhere."""
        assert self.comm is not None and instr.peer is not None
        value = instr.reads[0]
        x = reads[value] if value.name in ("act", "dact") else self._copied(instr)
        self.comm.send(x, instr.peer, name=_said(instr))
        return x.nbytes, *([True] * len(instr.writes))

    def receive(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The same, into memory of its own."""
        assert self.comm is not None and instr.peer is not None
        value = instr.writes[0]
        if value.name in ("act", "dact"):
            assert instr.mb is not None
            x = self.flat.params.new_empty(activation_shape(self.plan))
        else:
            x = torch.empty_like(self._copied(instr))
        self.comm.recv(x, instr.peer, name=_said(instr))
        return x.nbytes, *([x] * len(instr.writes))

    def _copied(self, instr: Instr) -> Tensor:
        """The gradient that has a copy on another rank: of a stage, its experts, or a table."""
        if instr.where == TABLE_NAME:
            return self.flat.views[TABLE][0] if TABLE in self.flat.views else self.flat.views[0][0]
        values = instr.reads if instr.op == Op.SEND else instr.writes
        return self.flat.span(tuple(value.at[0] for value in values))

    def add(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Own += the other copy's; two uses of one table are one tensor already."""
        came = next((reads[x] for x in instr.reads if x.name in ("came", "tcame")), None)
        if came is not None:
            self._copied(instr).add_(came)
        return [True] * len(instr.writes)

    def gradient(self, instr: Instr) -> Tensor:
        """The slice of the flat gradients that an all-reduce sums."""
        if instr.writes[0] == v.TABLE_SUM:
            return self.flat.views[TABLE][0]
        return super().gradient(instr)


def _said(instr: Instr) -> str:
    """What both ends call a message."""
    return instr.where if instr.mb is None else f"{instr.where} mb{instr.mb}"

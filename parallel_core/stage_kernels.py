"""What a pipeline adds to the kernels: messages between stages, the two halves of a backward, the
two copies of a weight, and the tally of loss and norm.

    send, recv   x[B, S, D] to the next stage, or its gradient to the one before
    I            autograd from the graph's end, as B does, but products queue their weight half:
                 the forward was told so, since a B in two halves would cost a few percent more
    W            runs that queue
    add          the other copy's gradient into one's own, in place
    norm         (loss, squared norm of the gradients this rank speaks for)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from parallel_core import values as v
from parallel_core.comm import Comm
from parallel_core.deferred import Deferred
from parallel_core.flat import TABLE
from parallel_core.grads import norm_of
from parallel_core.kernels import Reads, TrainKernels
from parallel_core.lanes import Kernel
from parallel_core.params import ParamSpec, held_pieces
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Value


class StageKernels(TrainKernels):
    """One rank of a pipeline: its stages, and what it sends to its neighbours."""

    def __init__(self, plan: Plan, rank: int, comm: Comm | None, device: torch.device) -> None:
        super().__init__(plan, rank, comm, device)
        here = plan.mesh.coordinate(rank)
        before = {u for r in range(here["pp"]) for u in plan.pipeline.held[r]}
        self.speaks_for = [u for u in held_pieces(plan, rank) if u not in before]
        self.halved = {(t.mb, t.stage) for _, t in plan.pipeline if t.op is Op.I}

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        return super().table() | {
            Op.I: self.input_half,
            Op.W: self.weight_half,
            Op.SEND: self.send,
            Op.RECV: self.receive,
            Op.ADD: self.add,
            Op.NORM: self.tally,
        }

    def load(self, step: int) -> dict[Value, Any]:
        """What the rank holds at the start of a step."""
        return super().load(step) | {v.TABLE: None}

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """As in one process; where I will follow, products leave their weight half to a queue."""
        if self.split is None or (instr.mb, self.numbers[instr.where]) not in self.halved:
            return super().forward(instr, reads)
        queue = Deferred()
        with self.split.into(queue):
            saved, out = super().forward(instr, reads)
        return (*saved, queue), out

    def input_half(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """dy -> (dx, what the weight half needs)."""
        assert instr.mb is not None
        u, mb = self.numbers[instr.where], instr.mb
        x, end, queue, *_ = reads[v.saved(mb, u)]
        self.begin(u)
        torch.autograd.backward(end, reads.get(v.dact(mb, u)))
        made = {"dact": x.grad if u else None, "held": queue}
        return [made[value.name] for value in instr.writes]

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
            rows, model = len(self.micro[instr.mb].ids), self.plan.model
            x = self.flat.params.new_empty((rows, self.plan.seq, model.hidden))
        else:
            x = torch.empty_like(self._copied(instr))
        self.comm.recv(x, instr.peer, name=_said(instr))
        return x.nbytes, x

    def _copied(self, instr: Instr) -> Tensor:
        """The gradient that has a copy on another rank: a stage's, or a tied table's."""
        if instr.where in self.numbers:
            return self.flat.span((self.numbers[instr.where],))
        return self.flat.views[TABLE][0] if TABLE in self.flat.views else self.flat.views[0][0]

    def add(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Own += the other copy's; two uses of one table are one tensor already."""
        came = next((reads[x] for x in instr.reads if x.name in ("came", "tcame")), None)
        if came is not None:
            self._copied(instr).add_(came)
        return [True]

    def gradient(self, instr: Instr) -> Tensor:
        """The slice of the flat gradients that an all-reduce sums."""
        if instr.writes[0] == v.TABLE_SUM:
            return self.flat.views[TABLE][0]
        return super().gradient(instr)

    def tally(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """[loss, squared norm]: float64, each weight counted by one rank of the pipeline."""
        pair = torch.zeros(2, dtype=torch.float64, device=self.device)
        for value in instr.reads:
            if value.name == "loss":
                pair[0] += reads[value]
        for u in self.speaks_for if self.measure_norm else ():
            pair[1] += norm_of(self.flat.span((u,))).square()
        return [pair]

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """New weights from the summed gradients, clipped by the norm over all stages."""
        return self.update_after_tally(instr, reads)

    def collect(self, mine: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every stage's tensors on rank 0, each from the first rank that has it."""
        assert self.comm is not None
        owners: dict[int, int] = {}
        for place, held in enumerate(self.plan.pipeline.held):
            for s in held:
                owners.setdefault(s, self.plan.mesh.rank(pp=place))
        for s, owner in owners.items():
            if mine and owner:  # before the first step there are no gradients
                self._bring(self.pieces[s].specs, owner, mine)
        return mine

    def _bring(self, specs: Sequence[ParamSpec], owner: int, mine: dict[str, Tensor]) -> None:
        """A stage's tensors to rank 0, in one message."""
        assert self.comm is not None
        if self.rank == owner:
            self.comm.hand_over(torch.cat([mine[spec.name].flatten() for spec in specs]), 0)
        elif self.rank == 0:
            sizes = [spec.numel for spec in specs]
            whole = self.comm.take_over(self.flat.params.new_empty(sum(sizes)), owner)
            for spec, part in zip(specs, torch.split(whole, sizes), strict=True):
                mine[spec.name] = part.view(spec.shape).clone()  # savers want storages of their own


def _said(instr: Instr) -> str:
    """What both ends call a message."""
    return f"{instr.where} mb{instr.mb}"

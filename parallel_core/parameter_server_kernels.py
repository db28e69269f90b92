"""What a worker and a server do to real tensors.

worker   recv weights   into its flat weights, which start as zeros: it has none of its own
         F, B           as in one process; a paced gradient takes its time (Pace)
         send grads     its flat gradients
server   recv loss      from one worker, or from whoever pushes first
         recv grads     into its flat gradients, or beside them to be added
         O              norm of the gradient, then the update
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from parallel_core import values as v
from parallel_core.comm import Comm
from parallel_core.data.server_step import paced
from parallel_core.flat import Flat
from parallel_core.grads import norm_of, settle_in
from parallel_core.kernels import Microbatch, TrainKernels
from parallel_core.lanes import Kernel
from parallel_core.model import IGNORED, Place
from parallel_core.params import units
from parallel_core.plan import DType, Plan, Server
from parallel_core.program import Instr, Op, Value
from parallel_core.sizes import flops
from parallel_core.summing import Reads
from parallel_core.text import rows_of
from parallel_core.update import Update


class WorkerKernels(TrainKernels):
    """A worker: a model, its gradients, no optimizer."""

    def __init__(self, plan: Plan, rank: int, comm: Comm | None, device: torch.device) -> None:
        super().__init__(plan, rank, comm, device)
        self.pace = Pace(plan, rank)
        self.goes_on = True  # what the last ticket said

    def lay_out(self) -> None:
        """Weights and gradients in their buffers; weights come from the server."""
        flat = self.flat = Flat(self.plan, self.model, self.device, self.rank)
        flat.params.zero_()
        for weights, views in zip(flat.parameters.values(), flat.views.values(), strict=True):
            for weight, view in zip(weights, views, strict=True):
                settle_in(weight, view)
        self.update = Update(self.plan, [])

    @property
    def speaks(self) -> bool:
        """The server speaks for the weights."""
        return False

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        return {
            Op.F: self.forward,
            Op.B: self.backward,
            Op.SEND: self.send,
            Op.RECV: self.receive,
        }

    def load(self, step: int) -> dict[Value, Any]:
        """This worker's rows of batch `step`: its share of the step, or its next minibatch.

        Asynchronous, a minibatch has the number `step`, and its loss is the mean of its tokens.
        """
        alone = self.plan.parameter_server == Server.ASYNC
        batch, rows = self.sampler.batch(step), rows_of(self.plan, self.rank, 0)
        mine = batch.rows(rows)
        valid = int(((mine if alone else batch).labels != IGNORED).sum())
        positions = torch.arange(self.plan.seq, device=self.device)
        ids, labels, rows_here = (
            torch.from_numpy(x).to(self.device) for x in (mine.ids, mine.labels, rows)
        )
        place = Place(self.plan.seed, step, rows_here, positions)
        mb = step if alone else 0
        self.micro = {mb: Microbatch(ids, labels, place, valid)}
        self._begun.clear()
        return {v.ids(mb): self.micro[mb]}

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """As in one process, at this worker's pace."""
        begun = time.perf_counter()
        made = super().forward(instr, reads)
        self.pace.keep(instr, begun)
        return made

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """As in one process, at this worker's pace."""
        begun = time.perf_counter()
        made = super().backward(instr, reads)
        self.pace.keep(instr, begun)
        return made

    def send(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The loss, or all gradients."""
        assert self.comm is not None and instr.peer is not None
        if instr.where == "loss":
            loss = reads[instr.reads[0]].cpu()
            self.comm.send(loss, instr.peer, name="loss", control=True)
            return [loss.nbytes]
        self.comm.send(self.flat.grads, instr.peer, name="grads")
        return [self.flat.grads.nbytes]

    def receive(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The ticket, or all weights."""
        assert self.comm is not None and instr.peer is not None
        if instr.where == "ticket":
            word = torch.empty(1, dtype=torch.int64)
            self.comm.recv(word, instr.peer, name="ticket", control=True)
            self.goes_on = bool(word)
            self.pace.begin()
            return word.nbytes, True
        self.comm.recv(self.flat.params, instr.peer, name="weights")
        if not instr.reads:  # without a ticket
            self.pace.begin()
        return self.flat.params.nbytes, *([None] * len(instr.writes))


class ServerKernels(TrainKernels):
    """The server: weights, optimizer, and one gradient at a time."""

    computes = False

    def __init__(self, plan: Plan, rank: int, comm: Comm | None, device: torch.device) -> None:
        super().__init__(plan, rank, comm, device)
        self.came_from = 0  # whose loss came last
        self.going_home = False  # what the next ticket says

    @property
    def speaks(self) -> bool:
        """The server speaks for the weights."""
        return True

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        return {
            Op.SEND: self.send,
            Op.RECV: self.receive,
            Op.ADD: self.add,
            Op.NORM: self.tally,
            Op.O: self.optimize,
        }

    def load(self, step: int) -> dict[Value, Any]:
        """The weights at the start, and the first ticket."""
        return {v.version(u, 0): None for u in self.flat.specs} | {Value("ticket", (0,)): True}

    def send(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """A ticket, or all weights."""
        assert self.comm is not None and instr.peer is not None
        if instr.where == "ticket":
            word = torch.tensor([0 if self.going_home else 1])
            self.comm.send(word, instr.peer, name="ticket", control=True)
            return [word.nbytes]
        self.comm.send(self.flat.params, instr.peer, name="weights")
        return [self.flat.params.nbytes]

    def receive(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """A loss (without a peer: the first that comes), or a gradient."""
        assert self.comm is not None
        if instr.where == "loss":
            wide = "float64" if DType(self.plan.dtype).bytes == 8 else "float32"
            loss = torch.empty((), dtype=getattr(torch, wide))
            if instr.peer is None:
                self.came_from = self.comm.recv_any(loss, name="loss", control=True)
            else:
                self.comm.recv(loss, instr.peer, name="loss", control=True)
                self.came_from = instr.peer
            return loss.nbytes, loss
        assert instr.peer is not None
        beside = instr.writes[0].name == "came" and instr.mb is None
        x = torch.empty_like(self.flat.grads) if beside else self.flat.grads
        self.comm.recv(x, instr.peer, name="grads")
        return x.nbytes, *([x] * len(instr.writes))

    def add(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The sum so far += the gradient beside it."""
        came: Tensor = next(reads[value] for value in instr.reads if value.name == "came")
        self.flat.grads.add_(came)
        return [self.flat.grads] * len(instr.writes)

    def tally(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """[loss, squared norm] of the summed gradient, float64."""
        losses = [reads[value].double() for value in instr.reads if value.name == "loss"]
        return [torch.stack([torch.stack(losses).sum(), norm_of(self.flat.grads).cpu() ** 2])]


class Pace:
    """Sleeps, so that a gradient takes at least pace_ms times its worker's speed.

    An instruction is over no earlier than its share of the gradient's FLOPs is, so that the
    worker looks like a slower machine. Without pace_ms, a speed above 1 stretches what each
    instruction really took.
    """

    def __init__(self, plan: Plan, rank: int) -> None:
        self._speed = plan.worker_speeds[rank]
        self._least = (plan.pace_ms or 0.0) / 1e3 * self._speed
        self._on, self._begun = paced(plan), 0.0
        self._due = _shares(plan)

    def begin(self) -> None:
        """A gradient begins now; the transfer of the weights is a part of it."""
        self._begun = time.perf_counter()

    def keep(self, instr: Instr, begun: float) -> None:
        """Sleep until the instruction that began at `begun` may be over."""
        if not self._on:
            return
        due = self._begun + self._least * self._due[instr.op, instr.where]
        if not self._least:
            due = begun + (time.perf_counter() - begun) * self._speed
        while (rest := due - time.perf_counter()) > 0:
            time.sleep(rest)


def _shares(plan: Plan) -> Mapping[tuple[Op, str], float]:
    """(op, unit) -> the part of a gradient's FLOPs that is done when it is over."""
    names, count = units(plan.model), flops(plan)
    order = [(Op.F, name) for name in names] + [(Op.B, name) for name in reversed(names)]
    done, table = 0.0, {}
    for op, name in order:
        done += count(Instr(op=op, where=name))
        table[op, name] = done
    return {key: part / done for key, part in table.items()}

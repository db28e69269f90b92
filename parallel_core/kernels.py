"""What each instruction of a training step does to real tensors: ordinary torch, one op a method.

    F    runs a piece (a unit or a stage) on a detached input; keeps the input and the graph's end
    B    runs autograd from there; gradients land in the flat buffer
    I, W   the same in two halves (deferred.py)
    all_reduce   sums a contiguous slice of the flat gradients in place (or each parameter's)
    O    norm of the summed gradient, then the update

A forward keeps the edge of its graph, not its output: that is freed as soon as it is sent.

Every loss is divided by the global count of valid tokens, once: ranks then sum, never average.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parallel_core import values as v
from parallel_core.activations import recompute
from parallel_core.comm import Comm
from parallel_core.context import attending
from parallel_core.crossing import Flow, Kept, edges, gradients, run_part, watched
from parallel_core.deferred import install
from parallel_core.flat import Flat
from parallel_core.gathering import collect, counted, first_copy
from parallel_core.grads import norm_of, settle_in
from parallel_core.keeping import Keeper, Shelf
from parallel_core.lanes import Kernel
from parallel_core.model import IGNORED, Place, Transformer, init_weights
from parallel_core.pieces import TABLE, held_pieces, pieces, uses_table
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Value
from parallel_core.summing import Reads, SumKernels
from parallel_core.tensor.block import TensorTransformer
from parallel_core.tensor.conjugate import Region
from parallel_core.text import Sampler, columns_of, rows_of
from parallel_core.update import Update, clip_factor


@dataclass(frozen=True)
class Microbatch:
    """One rank's rows of one microbatch: ids and labels [B, S], and where they stand."""

    ids: Tensor
    labels: Tensor
    place: Place
    valid_tokens: int


class TrainKernels(SumKernels):
    """The state of one rank's training (model, gradients, optimizer) and the ops that move it."""

    computes = True
    """Whether the rank runs forwards; a parameter server does not."""

    def __init__(self, plan: Plan, rank: int, comm: Comm | None, device: torch.device) -> None:
        self.plan, self.rank, self.comm, self.device = plan, rank, comm, device
        self.pieces = pieces(plan)
        self.numbers = {piece.name: u for u, piece in enumerate(self.pieces)}
        self.keeper = Keeper()
        units = [unit for u in held_pieces(plan, rank) for unit in self.pieces[u].units]
        self.model = self.make_model([unit.split(".")[0] for unit in units]).to(device)
        self.split = install(self.model) if plan.pp > 1 and plan.pipeline.splits else None
        if comm is not None and plan.cp > 1:
            attending.install(self.model, plan, comm)
        recompute.install(self.model, plan, self.again)
        self.lay_out()
        self.sampler = Sampler(plan)
        self.grad_norm = torch.zeros(())
        self.measure_norm = True
        self.copies = 1  # of the weights, at most
        self.micro: dict[int, Microbatch] = {}
        self._data: list[Tensor] = []
        self.shelves: dict[tuple[int, int], Shelf] = {}  # by microbatch and piece
        self.leave: set[tuple[int, int]] = set()  # those whose shelf will go to the host
        self._begun: set[int] = set()  # weights whose gradient this step has begun, by id

    def make_model(self, units: Sequence[str]) -> Transformer:
        """The rank's part of the model: the units it holds, its slice of each."""
        if self.plan.tp == 1:
            return Transformer(self.plan, only=units)
        assert self.comm is not None
        region = Region.of(self.comm, sequence=self.plan.sp, overlap=self.plan.overlap_tp)
        region.keeper = self.keeper
        return TensorTransformer(self.plan, region, only=units)

    @property
    def placeholders(self) -> list[Tensor]:
        """Tensors that stand for weights that are not here; they hold no values."""
        return []

    def lay_out(self) -> None:
        """Put weights and gradients into their buffers, and fill the weights."""
        flat = self.flat = Flat(self.plan, self.model, self.device, self.rank)
        place = self.plan.mesh.coordinate(self.rank)
        init_weights(self.model, self.plan, place)
        for weights, views in zip(flat.parameters.values(), flat.views.values(), strict=True):
            for weight, view in zip(weights, views, strict=True):
                settle_in(weight, view)
        self.update = Update(self.plan, flat.parts(whole=not self.plan.mixed))
        self.counted = counted(self.plan, flat, self.rank)

    def state(self) -> dict[str, list[Tensor]]:
        """The tensors of the training state by kind."""
        weights = list(self.model.parameters())
        grads = [w.grad for w in weights if w.grad is not None]
        return {
            "params": list(weights),
            "grads": [self.flat.grads, *grads],
            "optimizer": list(self.update.tensors()),
        }

    def weights_of(self, u: int) -> AbstractContextManager[None]:
        """Piece u's weights are there inside the block, for a forward that is only measured."""
        return nullcontext()

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copies of this rank's gradients and weights by name."""
        return self.flat.named(self.flat.grads), self.flat.named(self.flat.params)

    def collect(self, mine: dict[str, Tensor]) -> dict[str, Tensor]:
        """A snapshot of all ranks on rank 0, after the run."""
        return collect(self.plan, self.rank, self.comm, mine)

    @property
    def speaks(self) -> bool:
        """Whether this rank holds a part of the first copy of the model."""
        return self.rank in first_copy(self.plan)

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        return {
            Op.F: self.forward,
            Op.B: self.backward,
            Op.ALL_REDUCE: self.all_reduce,
            Op.O: self.optimize,
            Op.OFFLOAD: self.offload,
            Op.FETCH: self.fetch,
            Op.NORM: self.tally,
        }

    def sources(self) -> dict[str, str]:
        """Op -> file:line of its kernel, for the trace."""
        return {op.value: _source(kernel) for op, kernel in self.table().items()}

    def load(self, step: int) -> dict[Value, Any]:
        """The values a rank holds at the start of a step: its microbatches and its weights."""
        batch = self.sampler.batch(step)
        valid = int((batch.labels != IGNORED).sum())
        here = self.plan.batch_place(self.rank)
        columns = columns_of(self.plan, self.rank)
        positions = torch.from_numpy(columns.positions).to(self.device)
        self._begun.clear()
        for mb in range(self.plan.microbatches):
            rows = rows_of(self.plan, here, mb)
            mine = columns.of(batch.rows(rows))
            place = Place(self.plan.seed, step, torch.from_numpy(rows).to(self.device), positions)
            ids = torch.from_numpy(mine.ids).to(self.device)
            labels = torch.from_numpy(mine.labels).to(self.device)
            self.micro[mb] = Microbatch(ids, labels, place, valid)
        micros = self.micro.values()
        self._data = [t for m in micros for t in (m.ids, m.labels, m.place.rows)] + [positions]
        holds: dict[Value, Any] = {v.ids(mb): micro for mb, micro in self.micro.items()}
        return holds | {v.weight(u): None for u in range(len(self.pieces))}

    def forward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """x -> (kept for backward, output); the head gives (kept, running loss)."""
        assert instr.mb is not None
        u, mb, micro = self.numbers[instr.where], instr.mb, self.micro[instr.mb]
        x = reads[v.act(mb, u - 1)].detach().requires_grad_() if u else micro.ids
        past = reads[v.skip(mb, u - 2)].leaf() if self.pieces[u].joins else None
        flow, last = Flow(x, past), u == len(self.pieces) - 1
        if (mb, u) in self.leave:
            self.keeper.shelf = self.shelves[mb, u] = Shelf()
        with self.saving():
            for tensor in watched(x, past) if u else ():
                self.keeper.look_at(tensor)
            for unit in self.pieces[u].units:
                flow = self.run_unit(unit, flow, mb)
            if last:
                flow = Flow(self.model.loss_sum(flow.x, micro.labels) / micro.valid_tokens)
        self.keeper.shelf = None
        marks = [True for value in instr.writes if value.name == "due"]
        if last:
            before = next((reads[value] for value in instr.reads if value.name == "loss"), None)
            loss = flow.x.detach() if before is None else before + flow.x.detach()
            return Kept(x, (flow.x,), past), loss, *marks
        out = (flow.x.detach(), *((flow.skip.detached(),) if flow.skip else ()))
        return Kept(x, edges(flow), past), *out, *marks

    def handed_on(self, u: int, out: Sequence[Any]) -> dict[Value, Any]:
        """What the piece behind u reads of its output, for a forward that is only measured."""
        return {v.act(0, u): out[0]}

    def run_unit(self, unit: str, flow: Flow, mb: int) -> Flow:
        """One unit of the model, or a part of it, for a microbatch."""
        return run_part(self.model, unit, flow, self.micro[mb].place, ())

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, what autograd saves passes through the keeper, if anybody wants to know of it."""
        with self.keeper.keeping(self.no_activations()):
            yield

    def no_activations(self) -> list[Tensor]:
        """Tensors that autograd may save and that are weights or data."""
        return [self.flat.params, *self.model.buffers(), *self._data]

    def again(self) -> AbstractContextManager[None]:
        """What a forward stands in when its backward runs it again; asked for in the first run."""
        return self._again(self.split.again() if self.split else nullcontext())

    @contextmanager
    def _again(self, split: AbstractContextManager[None]) -> Iterator[None]:
        with split, self.keeper.keeping(self.no_activations(), again=True):
            yield

    def offload(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """What a forward kept, to the host. Its input stays in name: autograd asks its shape."""
        assert instr.mb is not None
        kept = reads[instr.reads[0]]
        x, shelf = kept.x, self.shelves[instr.mb, self.numbers[instr.where]]
        shelf.leave(self.keeper.look_at_host)
        if x.requires_grad:  # token ids are data
            x.data = x.new_zeros(1).expand(x.shape)
        return [shelf.nbytes, kept]

    def fetch(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """The same, back to the device."""
        assert instr.mb is not None
        shelf = self.shelves.pop((instr.mb, self.numbers[instr.where]))
        shelf.come_back(self.device, self.keeper.look_at)
        return [shelf.nbytes, reads[instr.reads[0]]]

    def backward(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """dy -> (gradients, accumulated in the flat buffer; dx; the tied share)."""
        made = self.run_back(instr, reads)
        return [made.get(value.name, True) for value in instr.writes]

    def run_back(self, instr: Instr, reads: Reads) -> dict[str, Any]:
        """Autograd from the ends of a piece's graph; what came in has its gradients then, by the
        name of their value."""
        assert instr.mb is not None
        u, mb = self.numbers[instr.where], instr.mb
        kept: Kept = next(reads[value] for value in instr.reads if value.name in v.KEPT)
        self.begin(u)
        given = [reads.get(v.dact(mb, u)), *reads.get(v.dskip(mb, u), ())]
        torch.autograd.backward(kept.ends, given)
        if not u:
            return {"dact": None}
        dx, past = gradients(kept.x, kept.skip)
        return {"dact": dx, "drows": dx, "dskip": past}

    def begin(self, u: int) -> None:
        """Before the first backward of piece u: its weights have no gradient yet.

        Autograd makes a new one, which `settle_in` moves to its place. A tied table may be begun
        by the head or by the embedding.
        """
        weights = [*self.flat.parameters.get(u, ())]
        if uses_table(self.plan, u):
            weights.append(self.flat.parameters[TABLE if TABLE in self.flat.parameters else 0][0])
        for weight in weights:
            if id(weight) not in self._begun:
                self._begun.add(id(weight))
                weight.grad = None

    def routing(self, step: int) -> list[dict[str, Any]]:
        """What routers decided in a step; nothing without experts."""
        return []

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Summed gradients -> new weights, in place; also the global gradient norm."""
        if self.plan.model_axes:
            return self.update_after_tally(instr, reads)
        if self.measure_norm or self.plan.clip:
            self.grad_norm = norm_of(self.flat.grads)
        self.clip_by(float(self.grad_norm))
        self.update.step()
        return [None] * len(instr.writes)

    def clip_by(self, norm: float) -> None:
        """Scale every gradient by what the global norm asks for, where the plan clips."""
        if self.plan.clip:
            self.update.scale(clip_factor(norm, self.plan.clip))

    def update_after_tally(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """New weights in this rank's part; to clip, it needs the norm over all ranks."""
        if self.plan.clip:
            self.clip_by(float(reads[v.TOTAL][1]) ** 0.5)
        self.update.step()
        return [None] * len(instr.writes)


def activation_shape(plan: Plan) -> tuple[int, int, int]:
    """[B, S, D] of what units hand on, as a rank has it: its part of the sequence."""
    seq = plan.seq_here // plan.tp if plan.sp else plan.seq_here
    return plan.rows_per_microbatch, seq, plan.model.hidden


def _source(kernel: Kernel) -> str:
    file = inspect.getsourcefile(kernel) or ""
    _, line = inspect.getsourcelines(kernel)
    return f"{file[file.rfind('parallel_core') :]}:{line}"

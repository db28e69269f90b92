"""Worker functions for the tests of ZeRO, some with a fault planted on purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from parallel_core import oracle, runtime
from parallel_core.kernel_choice import kernels_of
from parallel_core.kernels import TrainKernels
from parallel_core.model import IGNORED, Place, Transformer, init_weights
from parallel_core.plan import Plan
from parallel_core.program import Instr, Value
from parallel_core.rank import Rank
from parallel_core.text import Sampler, rows_of
from parallel_core.zero3_kernels import GatherKernels
from parallel_core.zero_kernels import ZeroKernels

Reads = Mapping[Value, Any]


def train_all(rank: Rank, plans: list[dict[str, Any]], steps: int, **more: Any) -> list[Any]:
    """Every plan in turn; rank 0 adds "weights", a hash of the whole model after the last step."""
    return [_train(rank, plan, steps, more) for plan in plans]


def _train(rank: Rank, plan: dict[str, Any], steps: int, more: dict[str, Any]) -> dict[str, Any]:
    made: list[TrainKernels] = []

    def make(*args: Any) -> TrainKernels:
        made.append(kernels_of(args[0])(*args))
        return made[0]

    rank.emit({"event": "plan"})
    result = runtime.train(rank, plan=plan, steps=steps, make=make, **more)
    whole = made[0].collect(made[0].snapshot()[1]) if made[0].speaks else {}
    return {**result, "weights": _hash(whole)}


def _hash(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


# -- planted faults -----------------------------------------------------------------------------


class KeptGather(GatherKernels):
    """Keeps every gathered block until the end of the step."""

    def load(self, step: int) -> dict[Value, Any]:
        self.hoard: list[Tensor] = []
        return super().load(step)

    def all_gather(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        made = super().all_gather(instr, reads)
        self.hoard.append(made[1])
        return made


class SavedWeight(GatherKernels):
    """Lets autograd save gathered weights as they are, instead of their places."""

    def fill(self) -> None:
        super().fill()
        self.keeper.wholes = {}  # the keeper knows of no gathered block


class LeakedGradient(ZeroKernels):
    """Keeps every gradient block until the end of the step, as ZeRO-1 may and ZeRO-2 may not."""

    def load(self, step: int) -> dict[Value, Any]:
        self.hoard: list[Tensor] = []
        return super().load(step)

    def _open(self, u: int) -> Tensor:
        self.hoard.append(super()._open(u))
        return self.hoard[-1]


class LeakedGradient3(LeakedGradient, GatherKernels):
    """The same in stage 3."""


class HiddenGradient(ZeroKernels):
    """Copies every gradient block and says so to nobody; the copies go before the update."""

    def load(self, step: int) -> dict[Value, Any]:
        self.hoard: list[Tensor] = []
        return super().load(step)

    def reduce_scatter(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        self.hoard.append(reads[instr.reads[0]].clone())
        return super().reduce_scatter(instr, reads)

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        self.hoard.clear()
        return super().optimize(instr, reads)


class HiddenWeight(GatherKernels):
    """The same of every gathered block of weights."""

    def load(self, step: int) -> dict[Value, Any]:
        self.hoard: list[Tensor] = []
        return super().load(step)

    def all_gather(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        made = super().all_gather(instr, reads)
        self.hoard.append(made[1].clone())
        return made

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        self.hoard.clear()
        return super().optimize(instr, reads)


class Diverging(ZeroKernels):
    """On the last rank one gathered weight is a bit off after the second update."""

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        self.updates = getattr(self, "updates", 0) + 1
        return super().optimize(instr, reads)

    def all_gather(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        made = super().all_gather(instr, reads)
        if self.updates == 2 and self.rank == self.plan.world_size - 1:
            nudge(self.shards.whole(self.shards.params, 0))
        return made


class Diverging3(GatherKernels):
    """The same of a shard, where each group has one."""

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        made = super().optimize(instr, reads)
        self.updates = getattr(self, "updates", 0) + 1
        if self.updates == 2 and self.rank == self.plan.world_size - 1:
            nudge(self.shards.params)
        return made


def nudge(weights: Tensor) -> None:
    """The next number after the first weight."""
    weights[:1] = torch.nextafter(weights[:1], weights[:1] + 1)


class MeanOfShards(ZeroKernels):
    """Clips by the norm of the rank's own shards, as if they were all."""

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        mine = sum(float(g.double().square().sum()) for _, g in self.shards.parts())
        alone = {value: torch.tensor([0.0, mine]) for value in instr.reads if value.name == "total"}
        return super().optimize(instr, {**reads, **alone})


class SkippedScatter(ZeroKernels):
    """Takes its own shard of its own gradient for the sum over the ranks (stage 1)."""

    def reduce_scatter(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        return 0, *([True] * len(instr.writes))


FAULTS: dict[str, type[TrainKernels]] = {
    "kept gather": KeptGather,
    "saved weight": SavedWeight,
    "leaked gradient": LeakedGradient,
    "leaked gradient 3": LeakedGradient3,
    "hidden gradient": HiddenGradient,
    "hidden weight": HiddenWeight,
    "diverging": Diverging,
    "diverging 3": Diverging3,
    "norm of one shard": MeanOfShards,
    "skipped scatter": SkippedScatter,
}


def train_with_faults(rank: Rank, runs: list[list[Any]], steps: int, **more: Any) -> list[Any]:
    """(plan, fault or None) one after another."""
    told = []
    for plan, fault in runs:
        rank.emit({"event": "plan"})
        make = FAULTS[fault] if fault else None
        told.append(runtime.train(rank, plan=plan, steps=steps, make=make, **more))
    return told


# -- torch's own ---------------------------------------------------------------------------------


def beside_torch(rank: Rank, runs: list[list[Any]], steps: int) -> list[dict[str, Any]]:
    """(plan, "ddp" or "fsdp2"): ours and torch's on the same model and batches, losses and weights.

    Rank 0 compares; the others say nothing.
    """
    rank.init()
    plans = [Plan.of(**plan) for plan, _ in runs]
    ours = [_ours(rank, plan, steps) for plan in plans]  # first: torch's wrappers leave tensors
    told = []
    for plan, (_, peer), (losses, weights) in zip(plans, runs, ours, strict=True):
        train = _with_ddp if peer == "ddp" else _with_fsdp2
        their_losses, theirs = train(rank, plan, steps)
        if rank.rank == 0:
            moved = oracle.relative_error(weights, _start(plan))
            apart = oracle.relative_error(weights, theirs)
            loss = float((losses - their_losses).abs().max())
            told.append({"loss": loss, "weights": apart, "moved": moved})
    return told


def _ours(rank: Rank, plan: Plan, steps: int) -> tuple[Tensor, dict[str, Tensor]]:
    made: list[TrainKernels] = []

    def make(*args: Any) -> TrainKernels:
        made.append(kernels_of(args[0])(*args))
        return made[0]

    result = runtime.train(rank, plan=plan.flat(), steps=steps, make=make, parity=False)
    weights = made[0].collect(made[0].snapshot()[1]) if made[0].speaks else {}
    losses = torch.tensor([row["loss"] for row in result["metrics"]], dtype=torch.float64)
    return losses, {name: weight.clone() for name, weight in weights.items()}


def _start(plan: Plan) -> dict[str, Tensor]:
    model = Transformer(plan)
    init_weights(model, plan)
    return {name: weight.detach() for name, weight in model.named_parameters()}


class Loss(nn.Module):
    """The model as one module whose forward is the loss, for wrappers that hook forwards."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Any) -> Tensor:
        loss: Tensor = self.model(*batch)
        return loss


def _model(plan: Plan) -> Transformer:
    model = Transformer(plan)
    init_weights(model, plan)
    return model


def _with_ddp(rank: Rank, plan: Plan, steps: int) -> tuple[Tensor, dict[str, Tensor]]:
    wrapped = DistributedDataParallel(Loss(_model(plan)))
    losses = _loop(rank, plan, wrapped, steps)
    named = wrapped.module.model.named_parameters()
    return losses, {name: weight.detach() for name, weight in named}


def _with_fsdp2(rank: Rank, plan: Plan, steps: int) -> tuple[Tensor, dict[str, Tensor]]:
    model = _model(plan)
    grid = (plan.dp // plan.shards, plan.shards)
    mesh = init_device_mesh("cpu", grid, mesh_dim_names=("replicate", "shard"))
    chosen = mesh["shard"] if grid[0] == 1 else mesh
    again = plan.zero == 3 and not plan.keep_gathered
    for name, unit in model.units.items():
        if name.startswith("layer"):
            fully_shard(unit, mesh=chosen, reshard_after_forward=again)
    # embedding and head are called by their weights as well: they belong to the root
    whole = Loss(model)
    fully_shard(whole, mesh=chosen, reshard_after_forward=again)
    losses = _loop(rank, plan, whole, steps)
    found = {}
    for name, weight in model.named_parameters():
        assert isinstance(weight, DTensor)
        found[name] = weight.detach().full_tensor()
    return losses, found


def _loop(rank: Rank, plan: Plan, model: nn.Module, steps: int) -> Tensor:
    """torch's own training of a wrapped model: it averages gradients, so losses are times dp."""
    optimizer = oracle.make_optimizer(list(model.parameters()), plan)
    sampler, losses = Sampler(plan), torch.zeros(steps, dtype=torch.float64)
    here = plan.mesh.coordinate(rank.rank)["dp"]
    for step in range(steps):
        batch = sampler.batch(step)
        valid = int((batch.labels != IGNORED).sum())
        optimizer.zero_grad()
        for mb in range(plan.microbatches):
            rows = rows_of(plan, here, mb)
            mine = batch.rows(rows)
            place = Place(plan.seed, step, torch.from_numpy(rows), torch.arange(plan.seq))
            ids, labels = torch.from_numpy(mine.ids), torch.from_numpy(mine.labels)
            loss = model(ids, labels, place, valid)
            (loss * plan.dp).backward()
            losses[step] += loss.detach()
        if plan.clip:
            norm = nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
            assert torch.isfinite(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        optimizer.step()
    torch.distributed.all_reduce(losses)
    return losses

"""On the ranks: our ZeRO and torch's, in the same processes, by turns.

Both train the same units from the same weights on the same batches, each with its own optimizer
state, and both read their loss and their gradient norm once a step. Memory comes first: with one
side built after the other, the allocator tells what each keeps between steps, and a thread that
asks it again and again what a step adds at most.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer

from parallel_core import values as v
from parallel_core.bench.dp_ranks import Load, Peer
from parallel_core.bench.interleave import OURS, PEER, take_turns
from parallel_core.bench.ours import CPU, Ours
from parallel_core.bench.peaks import kept, watch
from parallel_core.bench.zero import DDP, KEPT, ZRO, Race
from parallel_core.dropout import Place
from parallel_core.model import Transformer, init_weights, loss_sum
from parallel_core.plan import Optimizer, Plan
from parallel_core.rank import Rank
from parallel_core.resident import live_bytes, storage_bytes


class Side(Protocol):
    """A contender: its losses and norms by step, one step, the tensors of its state."""

    losses: list[float]
    norms: list[float]

    def step(self) -> None:
        """One training step."""

    def state_bytes(self) -> dict[str, int]:
        """Bytes of parameters, gradients and optimizer state that it keeps between steps."""


class Replicated(Peer):
    """DistributedDataParallel, with the whole optimizer or with ZeroRedundancyOptimizer."""

    def __init__(self, plan: Plan, load: Load, chosen: Race, *, sharded: bool) -> None:
        super().__init__(plan, load, chosen)
        if sharded:
            kind = torch.optim.SGD if plan.optimizer == Optimizer.SGD else torch.optim.AdamW
            options: dict[str, Any] = {"lr": plan.learning_rate, "fused": True}
            self.optimizer: Any = ZeroRedundancyOptimizer(
                self.parameters, kind, parameters_as_bucket_view=True, **options
            )

    def state_bytes(self) -> dict[str, int]:
        """Gradients are views of DDP's buckets."""
        return _state_of(self.parameters, getattr(self.optimizer, "optim", self.optimizer))


class Unit(nn.Module):
    """A unit of the model as fully_shard wants it: whatever it reads is its own."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor, place: Place) -> Tensor:
        """The unit's forward; the head's table is read here, where it has been gathered."""
        if (out := getattr(self.unit, "out", None)) is not None:
            made: Tensor = self.unit(x, out.weight)
        else:
            made = self.unit(x, place)
        return made


class Stack(nn.Module):
    """The units one after another."""

    def __init__(self, whole: Transformer) -> None:
        super().__init__()
        self.units = nn.ModuleList([Unit(unit) for unit in whole.units.values()])

    def forward(self, ids_bs: Tensor, labels_bs: Tensor, place: Place) -> Tensor:
        """The summed cross-entropy of these rows."""
        x = ids_bs
        for unit in self.units:
            x = unit(x, place)
        return loss_sum(x, labels_bs)


class Sharded:
    """FSDP2: fully_shard on every unit, then on the model."""

    def __init__(self, plan: Plan, load: Load, chosen: Race, *, kept: bool) -> None:
        self.plan, self.load, self.norm = plan, load, chosen.norm
        self.losses, self.norms = list[float](), list[float]()
        whole = Transformer(plan)
        init_weights(whole, plan)
        self.model = Stack(whole)
        for unit in self.model.units:
            fully_shard(unit, reshard_after_forward=not kept)
        fully_shard(self.model, reshard_after_forward=not kept)
        # the loss is divided by the tokens of all ranks: gradients are summed, not averaged
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self.parameters = list(self.model.parameters())
        kind = torch.optim.SGD if plan.optimizer == Optimizer.SGD else torch.optim.AdamW
        self.optimizer = kind(self.parameters, lr=plan.learning_rate, fused=True)

    def step(self) -> None:
        """One training step; the loss is this rank's own."""
        loaded = self.load(len(self.losses))
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for mb in range(self.plan.microbatches):
            micro = loaded[v.ids(mb)]
            loss = self.model(micro.ids, micro.labels, micro.place) / micro.valid_tokens
            torch.autograd.backward(loss)
            total += loss.detach()
        if self.norm:
            grads = [p.grad for p in self.parameters if p.grad is not None]
            norm: Any = torch.nn.utils.get_total_norm(grads)
            self.norms.append(float(norm.full_tensor()))
        self.optimizer.step()
        self.losses.append(total.item())

    def state_bytes(self) -> dict[str, int]:
        """Of this rank's shards."""
        return _state_of(self.parameters, self.optimizer)


def _state_of(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, int]:
    state = [t for each in optimizer.state.values() for t in each.values()]
    kept = [_local(t) for t in state if isinstance(t, Tensor) and t.ndim]
    return {
        "params": storage_bytes(map(_local, parameters)),
        "grads": storage_bytes(_local(p.grad) for p in parameters if p.grad is not None),
        "optimizer": storage_bytes(kept),
    }


def _local(tensor: Tensor) -> Tensor:
    """What of a distributed tensor lies on this rank."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def peer_of(name: str, plan: Plan, load: Load, chosen: Race) -> Side:
    """The contender of that name."""
    if name in (DDP, ZRO):
        return Replicated(plan, load, chosen, sharded=name == ZRO)
    return Sharded(plan, load, chosen, kept=name == KEPT)


def contend(rank: Rank, *, plan: dict[str, Any], peer: str, race: dict[str, Any]) -> dict[str, Any]:
    """The whole contest on one rank: warm-up, memory, then the timed turns; JSON-ready."""
    chosen, settings = Plan.of(**plan), Race(**race)
    rank.init("gloo")
    rehearse(chosen, rank, peer, settings)
    read = live_bytes(CPU)

    def meet() -> None:
        rank.emit({"event": "turn"})
        dist.barrier()

    with kept(read) as ours_keeps:
        ours = Ours(chosen, rank, norm=settings.norm)
        for _ in range(settings.warmup):
            ours.step()
    try:
        with kept(read) as peer_keeps:
            theirs = peer_of(peer, chosen, ours.kernels.load, settings)
            for _ in range(settings.warmup):
                theirs.step()
        sides: dict[str, Side] = {OURS: ours, PEER: theirs}
        keeps = {OURS: ours_keeps[0], PEER: peer_keeps[0]}
        steps = {name: side.step for name, side in sides.items()}
        peaks = watch(steps, keeps, settings.memory_rounds, read=read, meet=meet)
        blocks = take_turns(steps, settings.rounds, settings.turn_steps, meet)
    finally:
        ours.lanes.close()
    return {
        "blocks": [asdict(block) for block in blocks],
        "losses": {name: side.losses for name, side in sides.items()},
        "norms": {name: side.norms for name, side in sides.items()},
        "peaks": peaks,
        "state": {name: side.state_bytes() for name, side in sides.items()},
        "threads": torch.get_num_threads(),
    }


def rehearse(plan: Plan, rank: Rank, peer: str, chosen: Race) -> None:
    """A step of each, then both are dropped: what a process needs once is nobody's."""
    ours = Ours(plan, rank, norm=chosen.norm)
    try:
        theirs = peer_of(peer, plan, ours.kernels.load, chosen)
        ours.step()
        theirs.step()
    finally:
        ours.lanes.close()

"""On the ranks: our pipeline and torch.distributed.pipelining's, in the same processes, by turns.

Both cut the same Transformer into the same stages, from the same weights, on the same batches,
each with its own optimizer state, and both read their loss once a step. Ours runs as in a real
run: program, lanes, recorder, notes emitted between steps. The peer runs as its documentation
advises: a PipelineStage a stage, the schedule's `step` on the whole batch, outputs not returned,
fused AdamW, gradients set to None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import pipelining

from parallel_core.bench.interleave import OURS, PEER, take_turns
from parallel_core.bench.ours import CPU, Ours
from parallel_core.bench.pipeline import PEERS, Race
from parallel_core.model import IGNORED, Place, Transformer, init_weights, loss_sum
from parallel_core.pieces import pieces
from parallel_core.plan import Optimizer, Plan
from parallel_core.rank import Rank
from parallel_core.text import Sampler


class Stage(nn.Module):
    """The units of one stage as one module: ids[B, S] or x[B, S, D] -> x[B, S, D] or logits."""

    def __init__(self, plan: Plan, s: int) -> None:
        super().__init__()
        self.names = pieces(plan)[s].units
        self.model = Transformer(plan, only=self.names)
        init_weights(self.model, plan)
        none = torch.empty(0, dtype=torch.int64)  # row numbers matter to dropout alone
        self.place = Place(plan.seed, 0, none, torch.arange(plan.seq))

    def forward(self, x: Tensor) -> Tensor:
        """The units one after another."""
        for name in self.names:
            x = self.model.forward_unit(name, x, self.place)
        return x


class Peer:
    """A step of torch's schedule of the same name."""

    def __init__(self, plan: Plan, rank: Rank) -> None:
        self.losses = list[float]()
        mine, count = plan.pipeline.held[rank.rank], plan.pipeline.stages
        self.first, self.last = 0 in mine, count - 1 in mine
        self.modules = [Stage(plan, s) for s in mine]
        stages = [
            pipelining.PipelineStage(module, s, count, CPU)
            for module, s in zip(self.modules, mine, strict=True)
        ]
        several = plan.pipeline.stages > plan.pp
        kind: Any = getattr(pipelining.schedules, PEERS[plan.schedule])
        self.schedule = kind(
            stages if several else stages[0],
            n_microbatches=plan.microbatches,
            loss_fn=self._loss,
            scale_grads=False,  # the loss is already divided by the global tokens
        )
        weights = [p for module in self.modules for p in module.parameters()]
        optimizer = torch.optim.SGD if plan.optimizer == Optimizer.SGD else torch.optim.AdamW
        self.optimizer = optimizer(weights, lr=plan.learning_rate, fused=True)
        self.sampler, self.steps, self.valid = Sampler(plan), 0, 1

    def step(self) -> None:
        """One training step; the loss is read where the last stage is, as its user would."""
        batch = self.sampler.batch(self.steps)
        ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
        self.valid = int((batch.labels != IGNORED).sum())
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        given = {"target": labels, "losses": losses} if self.last else {}
        self.schedule.step(*([ids] if self.first else []), return_outputs=False, **given)
        self.optimizer.step()
        if losses:
            self.losses.append(float(torch.stack(losses).sum()))
        self.steps += 1

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return loss_sum(logits, labels) / self.valid

    def gradients(self) -> Mapping[str, Tensor]:
        """Of the last step, by parameter."""
        named = (pair for module in self.modules for pair in module.model.named_parameters())
        return {name: weight.grad for name, weight in named if weight.grad is not None}


def contend(rank: Rank, *, plan: dict[str, Any], race: dict[str, Any]) -> dict[str, Any]:
    """The whole contest on one rank: warm-up, then the timed turns; JSON-ready."""
    chosen, settings = Plan.of(**plan), Race(**race)
    rank.init("gloo")
    ours, peer = Ours(chosen, rank, norm=False), Peer(chosen, rank)

    def meet() -> None:
        rank.emit({"event": "turn"})
        dist.barrier()

    try:
        ours.step()
        peer.step()
        gradients = _apart(ours.gradients(), peer.gradients())
        for _ in range(settings.warmup - 1):
            ours.step()
            peer.step()
        sides = {OURS: ours.step, PEER: peer.step}
        blocks = take_turns(sides, settings.rounds, settings.turn_steps, meet)
    finally:
        ours.lanes.close()
    return {
        "blocks": [asdict(block) for block in blocks],
        "losses": {OURS: ours.losses, PEER: peer.losses},
        "gradients": gradients,
        "threads": torch.get_num_threads(),
    }


def _apart(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference of each gradient, as a share of the peer's largest element."""
    assert mine.keys() == theirs.keys()
    return {
        name: float((mine[name] - other).abs().max() / other.abs().max().clamp(min=1e-30))
        for name, other in theirs.items()
    }

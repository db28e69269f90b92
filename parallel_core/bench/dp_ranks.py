"""On the ranks: our data parallelism and DistributedDataParallel, in the same processes, by turns.

Both train the same Transformer from the same weights on the same batches, each with its own
optimizer state, and both read their loss and their gradient norm once a step. Ours runs as in a
real run: program, lanes, recorder, notes emitted between steps. The peer runs as its documentation
advises: gradients as bucket views, static graph, fused AdamW, gradients set to None.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from parallel_core import values as v
from parallel_core.bench.dp import Race, peer_settings
from parallel_core.bench.interleave import OURS, PEER, take_turns
from parallel_core.bench.ours import Ours
from parallel_core.kernels import Microbatch
from parallel_core.model import Transformer, init_weights
from parallel_core.plan import Optimizer, Plan
from parallel_core.program import Value
from parallel_core.rank import Rank

Load = Callable[[int], dict[Value, Any]]


class Peer:
    """A step of DistributedDataParallel at its best documented settings."""

    def __init__(self, plan: Plan, load: Load, chosen: Race) -> None:
        self.plan, self.load, self.norm = plan, load, chosen.norm
        self.losses, self.norms = list[float](), list[float]()
        model = Transformer(plan)
        init_weights(model, plan)
        self.parameters = list(model.parameters())
        self.ddp = DistributedDataParallel(model, **peer_settings(plan, chosen))
        kind = torch.optim.SGD if plan.optimizer == Optimizer.SGD else torch.optim.AdamW
        self.optimizer = kind(self.parameters, lr=plan.learning_rate, fused=True)

    def step(self) -> None:
        """One training step; the loss is this rank's own, as a DDP user reads it."""
        loaded = self.load(len(self.losses))
        self.optimizer.zero_grad(set_to_none=True)
        last = self.plan.microbatches - 1
        total = torch.zeros(())
        for mb in range(self.plan.microbatches):
            with self.ddp.no_sync() if mb < last else nullcontext():
                total += self._forward_backward(loaded[v.ids(mb)])
        if self.norm:
            grads = [p.grad for p in self.parameters if p.grad is not None]
            self.norms.append(float(torch.nn.utils.get_total_norm(grads)))
        self.optimizer.step()
        self.losses.append(total.item())

    def _forward_backward(self, micro: Microbatch) -> Tensor:
        # DDP averages gradients over ranks; the loss is already divided by the global tokens
        loss: Tensor = self.ddp(micro.ids, micro.labels, micro.place, micro.valid_tokens)
        torch.autograd.backward(loss * self.plan.dp)
        return loss.detach()


def contend(rank: Rank, *, plan: dict[str, Any], race: dict[str, Any]) -> dict[str, Any]:
    """The whole contest on one rank: warm-up, then the timed turns; JSON-ready."""
    chosen, settings = Plan.of(**plan), Race(**race)
    rank.init("gloo")
    ours = Ours(chosen, rank, norm=settings.norm)
    peer = Peer(chosen, ours.kernels.load, settings)

    def meet() -> None:
        rank.emit({"event": "turn"})
        dist.barrier()

    try:
        for _ in range(settings.warmup):
            ours.step()
            peer.step()
        sides = {OURS: ours.step, PEER: peer.step}
        blocks = take_turns(sides, settings.rounds, settings.turn_steps, meet)
    finally:
        ours.lanes.close()
    return {
        "blocks": [asdict(block) for block in blocks],
        "losses": {OURS: ours.losses, PEER: peer.losses},
        "norms": {OURS: ours.norms, PEER: peer.norms},
        "threads": torch.get_num_threads(),
    }

"""On the ranks: a layer of experts four ways, case after case, by turns.

Shapes: B sequences here, S positions, D model, E experts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.bench.context_rows import order
from parallel_core.bench.experts import Race
from parallel_core.bench.experts_rows import ALL_TO_ALL, GATHER, GROUPED, LOOP, SIDES
from parallel_core.bench.experts_sides import NOWHERE, ByAllGather, ByAllToAll, ByLoop
from parallel_core.bench.interleave import Block
from parallel_core.comm import Comm
from parallel_core.moe import MoE
from parallel_core.plan import Plan
from parallel_core.rank import Rank


@dataclass(frozen=True)
class Side:
    """One contender on this rank: x and dy[B, S, D], the layer, and the weights it trains.

    `weights` are the router's and then the experts'.
    """

    x: Tensor
    dy: Tensor
    layer: Callable[[Tensor], Tensor]
    weights: Sequence[Tensor]

    def step(self) -> list[Tensor]:
        """y, dx, and the gradient of every weight: forward and backward."""
        y = self.layer(self.x)
        return [y.detach(), *torch.autograd.grad(y, (self.x, *self.weights), self.dy)]


@dataclass(frozen=True)
class Drawn:
    """The whole of a case, the same on every rank: x and dy[B, S, D], the router's w[E, D], and
    each stack of the experts [E, out, in]."""

    x: Tensor
    dy: Tensor
    router: Tensor
    stacks: list[Tensor]

    @classmethod
    def of(cls, plan: Plan) -> Drawn:
        """Tokens of deviation 1, a router whose logits have as much, experts that keep it."""
        generator, m = torch.Generator().manual_seed(plan.seed), plan.model

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        tokens = (plan.global_batch, plan.seq, m.hidden)
        x, dy, router = draw(*tokens), draw(*tokens), draw(m.experts, m.hidden)
        shapes = [tuple(p.shape[1:]) for p in MoE(_alone(plan), "layer0").experts.parameters()]
        stacks = [draw(m.experts, *shape) / shape[-1] ** 0.5 for shape in shapes]
        return cls(x, dy, router / m.hidden**0.5, stacks)

    def layer(self, plan: Plan, place: int) -> MoE:
        """The layer of a rank that holds these experts."""
        moe = MoE(plan, "layer0")
        mine = slice(place * plan.experts_here, (place + 1) * plan.experts_here)
        with torch.no_grad():
            moe.router.weight.copy_(self.router)
            for weight, stack in zip(moe.experts.parameters(), self.stacks, strict=True):
                weight.copy_(stack[mine])
        return moe

    def tokens(self, rows: slice) -> tuple[Tensor, Tensor]:
        """x, to be given a gradient, and dy of some sequences."""
        return self.x[rows].clone().requires_grad_(), self.dy[rows].clone()


def _alone(plan: Plan) -> Plan:
    """The same on one process."""
    return plan.but(dp=1, ep=1)


def contend(rank: Rank, *, plans: list[dict[str, Any]], race: dict[str, Any]) -> dict[str, Any]:
    """Every case on one rank: comparison, bytes, timed turns; JSON-ready."""
    torch.set_num_threads(1)  # the own-device clock is that of one thread
    settings = Race(**race)
    rank.init("gloo")
    comm = Comm(Plan.of(**plans[0]).mesh, rank.rank)
    cases = []
    for number, fields in enumerate(plans):
        plan = Plan.of(**fields)
        sides, told = sides_of(plan, comm)
        steps = {name: sides[name].step if name in sides else _wait for name in SIDES}
        for _ in range(settings.warmup):
            for step in steps.values():
                step()
        blocks = _take(rank, number, steps, settings.rounds)
        cases.append({**told, "blocks": [asdict(block) for block in blocks]})
    return {"cases": cases, "threads": torch.get_num_threads()}


def sides_of(plan: Plan, comm: Comm) -> tuple[dict[str, Side], dict[str, Any]]:
    """The contenders of a case, how far each stands from the loop, and bytes that left this rank.

    Differences are a share of the largest entry of each result. All tokens stay with rank 0.
    """
    drawn, place = Drawn.of(plan), comm.mesh.coordinate(comm.rank)["ep"]
    each = plan.global_batch // plan.ep
    mine, every = slice(place * each, (place + 1) * each), slice(None)
    ways: dict[str, ByAllToAll | ByAllGather] = {
        ALL_TO_ALL: ByAllToAll(drawn.layer(plan, place), comm),
        GATHER: ByAllGather(drawn.layer(plan, place), comm),
    }
    sides = {
        name: Side(*drawn.tokens(mine), way, tuple(way.moe.parameters()))
        for name, way in ways.items()
    }
    whole, looped = drawn.layer(_alone(plan), 0), ByLoop(drawn.layer(_alone(plan), 0))
    sides[GROUPED] = Side(
        *drawn.tokens(every), lambda x: whole(x, NOWHERE), tuple(whole.parameters())
    )
    leaves = (looped.moe.router.weight, *looped.leaves)
    sides[LOOP] = Side(*drawn.tokens(every), looped, leaves)
    truth = _stacked(sides[LOOP].step(), plan.model.experts)
    here = slice(place * plan.experts_here, (place + 1) * plan.experts_here)
    part = [truth[0][mine], truth[1][mine], truth[2], *(w[here] for w in truth[3:])]
    apart = {GROUPED: _apart(sides[GROUPED].step(), truth)}
    for name in ways:
        found = sides[name].step()
        comm.all_reduce(found[2], "ep")  # a rank's router has seen its own tokens alone
        apart[name] = _apart(found, part)
    assert whole.routed is not None
    loads = torch.tensor(whole.routed.counts).view(plan.ep, -1).sum(1).tolist()
    told = {
        "apart": apart,
        "sent": {name: way.sent for name, way in ways.items()},
        "rank_loads": loads,
    }
    if comm.rank:
        del sides[GROUPED], sides[LOOP]
    return sides, told


def _stacked(found: list[Tensor], experts: int) -> list[Tensor]:
    """The same with one stack for the gradients of each kind of matrix."""
    rest = found[3:]
    return [*found[:3], *(torch.stack(rest[i : i + experts]) for i in range(0, len(rest), experts))]


def _apart(found: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return max(
        float((x - y).abs().max() / y.abs().max().clamp_min(1e-30))
        for x, y in zip(found, right, strict=True)
    )


def _take(
    rank: Rank, case: int, sides: Mapping[str, Callable[[], object]], rounds: int
) -> list[Block]:
    """Time a call of each side a turn; nobody begins one before all are there."""
    blocks = []
    for number in range(rounds):
        rank.emit({"event": "turn", "case": case, "number": number, "rank": rank.rank})
        for name in order(tuple(sides), number):
            dist.barrier()
            begin, spent = time.perf_counter(), time.thread_time()
            sides[name]()
            seconds, spent = time.perf_counter() - begin, time.thread_time() - spent
            blocks.append(Block(number, name, 1, seconds, spent))
    return blocks


def _wait() -> None:
    """A turn in which this rank has nothing to do."""

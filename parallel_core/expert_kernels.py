"""What experts add to the kernels: where tokens go, their messages, and the loads that move a bias.

    all_to_all dispatch  first how many rows go to each expert: from there on every rank knows how
                         many come from whom; then rows[R, D] -> those of this rank's experts
    all_to_all combine   what they made of them, the same way back
    all_reduce loads     how many tokens of the step asked for each expert, over all ranks

A rank without a token for some expert, or without any, takes part all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parallel_core import values as v
from parallel_core.comm import Comm
from parallel_core.context.whole import WholeSequence
from parallel_core.crossing import Flow, Kept, run_part
from parallel_core.expert.journey import Journey
from parallel_core.expert_step import journey_of
from parallel_core.kernels import TrainKernels
from parallel_core.lanes import Kernel
from parallel_core.moe import Routed
from parallel_core.pieces import ROUTE
from parallel_core.plan import Balance, Plan
from parallel_core.program import Instr, Op, Value
from parallel_core.stage_kernels import StageKernels
from parallel_core.stash_kernels import StashKernels
from parallel_core.summing import Reads
from parallel_core.zero3_kernels import GatherKernels
from parallel_core.zero_kernels import ZeroKernels


class ExpertKernels(TrainKernels):
    """One rank of a model of experts.

    `routes` are the decisions of the step by (microbatch, layer), `journeys` the ways of its rows:
    both until they have been told.
    """

    def __init__(self, plan: Plan, rank: int, comm: Comm | None, device: torch.device) -> None:
        super().__init__(plan, rank, comm, device)
        self.routes: dict[tuple[int, str], Decision] = {}
        self.journeys: dict[tuple[int, str], Journey] = {}
        if plan.cp > 1:
            assert comm is not None
            for moe in self.model.routers.values():
                moe.sequence = WholeSequence(comm, plan.context)

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        return super().table() | {Op.ALL_TO_ALL: self.all_to_all}

    def load(self, step: int) -> dict[Value, Any]:
        """What the rank holds at the start of a step; nothing is routed yet."""
        self.routes.clear()
        self.journeys.clear()
        return super().load(step)

    def run_unit(self, unit: str, flow: Flow, mb: int) -> Flow:
        """One unit, or part of a layer; a route's decision is kept."""
        layer = unit.split(".")[0]
        journey = self.journeys.get((mb, layer))
        each = [] if journey is None else journey.each
        flow = run_part(self.model, unit, flow, self.micro[mb].place, each)
        if layer in self.model.routers and (unit == layer or unit.endswith(ROUTE)):
            routed = self.model.routers[layer].routed
            assert routed is not None
            self.routes[mb, layer] = Decision.of(routed, shown=mb == min(self.micro))
        self._forget()
        return flow

    def run_back(self, instr: Instr, reads: Reads) -> dict[str, Any]:
        """As without experts; a layer that was run again has routed again."""
        made = super().run_back(instr, reads)
        self._forget()
        if self.pieces[self.numbers[instr.where]].joins:
            kept: Kept = next(reads[value] for value in instr.reads if value.name in v.KEPT)
            self.keeper.leaving(kept.x)
        return made

    def _forget(self) -> None:
        """What a router keeps of its decision is what its backward needs, and goes with that."""
        for moe in self.model.routers.values():
            moe.routed = None

    def _exchange(self, counts: Tensor, axis: str) -> Tensor:
        """Each rank tells each other how many rows come for each of its experts."""
        assert self.comm is not None
        ones = [1] * len(counts)
        return self.comm.all_to_all(counts.to(self.device), axis, ones, ones).cpu()

    def all_to_all(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """x[R, D] of one's own tokens -> x[R, D] of one's own experts, or the other way; of two
        hops, one."""
        assert self.comm is not None and instr.mb is not None and instr.axis is not None
        layer, _, way = instr.where.partition(".")
        value, key, told = instr.reads[0], (instr.mb, layer), 0
        forward = value.name in ("rows", "hop")
        if forward and way == "dispatch":
            counts = self.routes[key].counts
            if value.name == "rows":
                self.journeys[key] = Journey()
                self.journeys[key].begin(counts, ranks=self.plan.ep, node=self.plan.ep_node)
            self.journeys[key].hop(self._exchange, instr.axis)
            told = 8 * len(counts)  # int64
        journey = self.journeys[key]
        hop = next(hop for hop in journey.hops if hop.axis == instr.axis)
        x: Tensor = reads[value].contiguous()
        travel = journey.out if forward == (way == "dispatch") else journey.home
        return told + x.nbytes, travel(x, hop, self.comm.all_to_all)

    def handed_on(self, u: int, out: Sequence[Any]) -> dict[Value, Any]:
        """What arrives of a piece's rows, and what went past the experts."""
        piece = self.pieces[u]
        if piece.routes:
            self._past = {v.skip(0, u): out[1]}
        came = out[0]
        for message in journey_of(self.plan, u, 0, forward=True):
            _, came = self.all_to_all(message, {message.reads[0]: came})
        return {v.act(0, u): came, **self._past}

    def sum_loads(self, instr: Instr) -> Sequence[Any]:
        """Loads of every layer that is here, over all ranks, for the update to move biases by; of
        all layers, where others have a copy of some."""
        assert self.comm is not None and instr.axis is not None
        mine, m = self.loads(), self.plan.model
        layers = [*mine] if instr.axis == "dp" else [f"layer{i}" for i in range(m.layers)]
        nothing = torch.zeros(m.experts, dtype=torch.int64, device=self.device)
        loads = torch.cat([nothing[:0], *(mine.get(layer, nothing) for layer in layers)])
        self.comm.all_reduce(loads, instr.axis, name=instr.where, control=True)
        summed = dict(zip(layers, torch.split(loads, m.experts) if layers else (), strict=True))
        self.summed = [summed[layer] for layer in mine]
        return loads.nbytes, *([True] * len(instr.writes))

    def loads(self) -> dict[str, Tensor]:
        """How many tokens of this rank's step asked for each expert, by layer."""
        return {
            layer: torch.stack(
                [made.asked for (_, name), made in self.routes.items() if name == layer]
            ).sum(0)
            for layer in self.model.routers
        }

    def optimize(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """New weights; and where loads move a router's bias, that."""
        made = super().optimize(instr, reads)
        if self.plan.model.balance == Balance.BIAS:
            alone = self.plan.gradient_ranks == 1 and self.plan.loads_axis == "dp"
            loads = [*self.loads().values()] if alone else self.summed
            for moe, load in zip(self.model.routers.values(), loads, strict=True):
                moe.router.move_bias(load, self.plan.model.bias_rate)
        return made

    def routing(self, step: int) -> list[dict[str, Any]]:
        """What this rank's routers decided in a step: rows asked for and kept, by expert; and token
        by token where the first ones of its first sequence wanted to go, and whether they went.
        It is told once."""
        told = [
            {
                "step": step,
                "mb": mb,
                "layer": int(layer.removeprefix("layer")),
                "asked": made.asked.tolist(),
                "kept": made.counts,
                "tokens": made.shown,
            }
            for (mb, layer), made in sorted(self.routes.items())
        ]
        self.routes.clear()
        self.journeys.clear()
        return told


SHOWN_TOKENS = 64
"""Positions of a rank's first sequence whose choices are told one by one."""


@dataclass(frozen=True)
class Decision:
    """What of a router's decision is told: rows by expert, kept and asked for, a few choices."""

    counts: list[int]
    asked: Tensor
    shown: list[list[int]]

    @classmethod
    def of(cls, routed: Routed, *, shown: bool) -> Decision:
        """Without what the backward needs."""
        return cls(routed.counts, routed.rows.asked, _sample(routed) if shown else [])


def _sample(routed: Routed) -> list[list[int]]:
    """[position, expert, went] of every choice of the first tokens."""
    asked, kept = (x[0, :SHOWN_TOKENS] for x in (routed.choice.asked, routed.choice.kept))
    return [[s, e, int(kept[s, e])] for s, e in asked.nonzero().tolist()]


class ExpertStageKernels(ExpertKernels, StageKernels):
    """The same of a pipeline's stages."""


class ExpertStashKernels(ExpertKernels, StashKernels):
    """The same where a stage is updated after every microbatch."""


class ExpertZeroKernels(ExpertKernels, ZeroKernels):
    """The same where the optimizer's state, or gradients too, are sharded."""


class ExpertGatherKernels(ExpertKernels, GatherKernels):
    """The same where weights are sharded as well."""

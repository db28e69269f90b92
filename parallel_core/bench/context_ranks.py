"""On the ranks: rings of ours and of torch's at one layer, and whole steps of ours, by turns.

Shapes: B batch, H heads, S sequence, K head width.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from parallel_core.bench.context import Race
from parallel_core.bench.context_peer import torch_ring
from parallel_core.bench.context_rows import ONE, RING, ROTATIONS, SIDES, TORCH, ZIGZAG, order
from parallel_core.bench.interleave import OURS, PEER, Block
from parallel_core.bench.peaks import highest
from parallel_core.cases import program_of
from parallel_core.comm import Comm
from parallel_core.context import layout_of
from parallel_core.context.attention import attention
from parallel_core.context.context import Context
from parallel_core.kernels import TrainKernels
from parallel_core.lanes import Lanes
from parallel_core.plan import Plan
from parallel_core.rank import Rank
from parallel_core.resident import live_bytes
from parallel_core.runtime import loss_and_norm

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Layer:
    """One contender on this rank: q, k, v and da[B, H, S/cp, K], and how it attends."""

    qkv: tuple[Tensor, ...]
    da: Tensor
    attend: Attend

    @classmethod
    def at(cls, positions: tuple[int, ...], whole: tuple[Tensor, ...], attend: Attend) -> Layer:
        """The layer of a rank that holds these positions of the whole q, k, v, da."""
        *qkv, da = (x[:, :, positions].contiguous() for x in whole)
        return cls(tuple(x.requires_grad_() for x in qkv), da, attend)

    def step(self) -> list[Tensor]:
        """a, dq, dk, dv: the attention, and its backward."""
        a = self.attend(*self.qkv)
        return [a.detach(), *torch.autograd.grad(a, self.qkv, self.da)]

    @property
    def holds(self) -> int:
        """Bytes of what it is given."""
        return sum(x.nbytes for x in (*self.qkv, self.da))

    def kept(self, read: Callable[[], int]) -> int:
        """Bytes from the forward to the backward: q, k, v and all that the forward leaves."""
        before = read()
        a = self.attend(*self.qkv)
        left = read() - before
        del a  # and with it what is kept for its backward
        return sum(x.nbytes for x in self.qkv) + left if left > 0 else 0


class Steps:
    """Training steps of the live run by one method, recorder and all."""

    def __init__(self, plan: Plan, rank: Rank) -> None:
        self.rank, self.losses, self.norms = rank, list[float](), list[float]()
        self.kernels = TrainKernels(plan, rank.rank, Comm(plan.mesh, rank.rank), CPU)
        instrs = program_of(plan).ranks[rank.rank]
        rank.describe([instr.label for instr in instrs])
        table, memory = self.kernels.table(), live_bytes(CPU)
        self.lanes = Lanes(instrs, table, beat=rank.beat, memory=memory)

    def step(self) -> None:
        """One step; the notes go to the owner."""
        step = len(self.losses)
        left = self.lanes.run(step, self.kernels.load(step))
        loss, norm = loss_and_norm(self.kernels.plan, self.kernels, left)
        self.losses.append(loss)
        self.norms.append(norm)
        notes, self.lanes.notes = self.lanes.notes, []
        self.rank.emit({"event": "notes", "rank": self.rank.rank, "notes": notes})


class Turns:
    """The turns of one contest on this rank; nobody begins one before all are there."""

    def __init__(self, rank: Rank, what: str, rounds: int) -> None:
        self.rank, self.what, self.rounds, self.number = rank, what, rounds, 0

    def take(self, sides: Mapping[str, Callable[[], object]]) -> list[Block]:
        """Time a call of each side a turn; `cpu` is that of this thread alone."""
        blocks = []
        for number in range(self.rounds):
            for name in order(tuple(sides), number):
                self._meet(len(sides))
                begin, spent = time.perf_counter(), time.thread_time()
                sides[name]()
                seconds, spent = time.perf_counter() - begin, time.thread_time() - spent
                blocks.append(Block(number, name, 1, seconds, spent))
        return blocks

    def watch(self, sides: Mapping[str, Callable[[], object]]) -> dict[str, list[int]]:
        """The most bytes that a call of each side adds, a number a round."""
        read = live_bytes(CPU)
        found: dict[str, list[int]] = {name: [] for name in sides}
        for number in range(self.rounds):
            added = dict.fromkeys(sides, 0)
            for name in order(tuple(sides), number):
                self._meet(len(sides))
                gc.collect()
                before = read()
                added[name] = max(added[name], highest(partial(_drop, sides[name]), read) - before)
            for name, most in added.items():
                found[name].append(most)
        return found

    def _meet(self, sides: int) -> None:
        self.number += 1
        of = 2 * sides * self.rounds
        self.rank.emit({"event": "turn", "what": self.what, "number": self.number, "of": of,
                        "rank": self.rank.rank})  # fmt: skip
        dist.barrier()


def contend(rank: Rank, *, plan: dict[str, Any], race: dict[str, Any]) -> dict[str, Any]:
    """The whole contest on one rank: comparison, memory, then the timed turns; JSON-ready."""
    torch.set_num_threads(1)  # the own-device clock is that of one thread
    chosen, settings = Plan.of(**plan), Race(**race)
    rank.init("gloo")
    layers, apart = layers_of(chosen, rank)
    sides = {name: layers[name].step if name in layers else _wait for name in SIDES}
    for _ in range(settings.warmup):
        for step in sides.values():
            step()
    added = Turns(rank, "memory", settings.memory_rounds).watch(sides)
    blocks = Turns(rank, "layer", settings.rounds).take(sides)
    read, again = live_bytes(CPU), range(settings.memory_rounds)
    keeps = {
        name: [layers[name].kept(read) if name in layers else 0 for _ in again] for name in SIDES
    }
    holds = {name: layers[name].holds if name in layers else 0 for name in SIDES}
    told = {
        "apart": apart,
        "peaks": {name: [holds[name] + a if a > 0 else 0 for a in added[name]] for name in SIDES},
        "keeps": keeps,
        "blocks": [asdict(block) for block in blocks],
        "threads": torch.get_num_threads(),
    }
    layers.clear()
    return told | (_train(rank, chosen, settings) if settings.step_rounds else {})


def layers_of(plan: Plan, rank: Rank) -> tuple[dict[str, Layer], dict[str, float]]:
    """The contenders, and how far their a, dq, dk, dv stand from those of one process.

    As a share of the largest entry. The whole sequence stays with rank 0.
    """
    whole = _drawn(plan)
    one = Layer.at(
        tuple(range(plan.seq)), whole, partial(scaled_dot_product_attention, is_causal=True)
    )
    truth, comm = one.step(), Comm(plan.mesh, rank.rank)
    layers, apart = dict[str, Layer](), dict[str, float]()
    for ours, peers in TORCH.items():
        layout = layout_of(ours, plan.seq, ranks=plan.cp)
        context = Context(comm, layout, method=ours, overlap=plan.overlap_cp)
        ways: dict[str, Attend] = {ours: partial(attention, context=context)}
        for peer, rotation in zip(peers, ROTATIONS, strict=True):
            ways[peer] = torch_ring(zigzag=layout.zigzag, rotation=rotation)
        mine = layout.positions(rank.rank)
        for name, attend in ways.items():
            layers[name] = Layer.at(mine, whole, attend)
            apart[name] = max(
                float((x - right[:, :, mine]).abs().max() / right.abs().max())
                for x, right in zip(layers[name].step(), truth, strict=True)
            )
    if rank.rank == 0:
        layers[ONE] = one
    return layers, apart


def _drawn(plan: Plan) -> tuple[Tensor, ...]:
    """The same whole q, k, v and da[B, H, S, K] on every rank."""
    generator, m = torch.Generator().manual_seed(plan.seed), plan.model
    shape = (plan.rows_per_microbatch, m.heads, plan.seq, m.head_dim)
    return tuple(torch.randn(shape, generator=generator) for _ in range(4))


def _train(rank: Rank, plan: Plan, settings: Race) -> dict[str, Any]:
    """Whole steps by zigzag and by the contiguous ring; the second is the peer."""
    both: dict[str, Steps] = {}
    try:
        for method in (ZIGZAG, RING):
            both[method] = Steps(Plan.of(**{**plan.flat(), "cp_method": method}), rank)
            for _ in range(settings.warmup):
                both[method].step()
        sides = {method: steps.step for method, steps in both.items()}
        blocks = Turns(rank, "training step", settings.step_rounds).take(sides)
    finally:
        for steps in both.values():
            steps.lanes.close()
    ours, peer = both[ZIGZAG], both[RING]
    return {
        "step_blocks": [asdict(block) for block in blocks],
        "losses": {OURS: ours.losses, PEER: peer.losses},
        "norms": {OURS: ours.norms, PEER: peer.norms},
    }


def _wait() -> None:
    """A turn in which this rank has nothing to do."""


def _drop(call: Callable[[], object]) -> None:
    call()

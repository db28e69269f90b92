"""On the ranks: pass-KV and pass-Q by turns over a cached prompt, on a wire slowed to a rate.

Shapes: B batch, H query and G key/value heads, S new tokens, T new and cached ones, K head width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.bench.context_crossover_cases import SIDES, Case, Sweep, cases, flops, shape_of
from parallel_core.bench.context_rows import order
from parallel_core.bench.interleave import Block
from parallel_core.comm import Comm
from parallel_core.context.attention import attention
from parallel_core.context.context import Context, Passing
from parallel_core.plan import Plan
from parallel_core.rank import Rank

PROBES = 5
"""Turns from which a rate is taken."""


class SlowComm(Comm):
    """A wire that takes at least as long as its bytes at `rate` bytes a second; 0 adds nothing.

    Who waits for it does no work, so that what is hidden behind a tile is really free.
    """

    rate = 0.0

    def due(self, sent: float) -> float:
        """When a message of that many bytes, posted now, can be there."""
        return time.perf_counter() + (sent / self.rate if self.rate else 0.0)

    def all_to_all(
        self, x: Tensor, axis: str, sizes_in: Sequence[int], sizes_out: Sequence[int]
    ) -> Tensor:
        """As Comm's; a rank's own rows need no wire."""
        n = self.mesh.degree(axis)
        due = self.due(x.nbytes * (n - 1) / n)
        came = super().all_to_all(x, axis, sizes_in, sizes_out)
        _until(due)
        return came


class SlowContext(Context):
    """A context whose hops go over a SlowComm."""

    def pass_on(self, x: Tensor, what: str) -> Passing:
        """As Context's."""
        passing = _SlowPassing(self, x, what)
        if not self.overlap:
            passing.wait()
        return passing


class _SlowPassing(Passing):
    def __init__(self, context: Context, x: Tensor, what: str) -> None:
        assert isinstance(context.comm, SlowComm)
        self._due = context.comm.due(x.nbytes)
        super().__init__(context, x, what)

    def wait(self) -> Tensor:
        came = super().wait()
        _until(self._due)
        return came


def _until(due: float) -> None:
    left = due - time.perf_counter()
    if left > 0:
        time.sleep(left)


def sweep(rank: Rank, *, plan: dict[str, Any], sweep: dict[str, Any]) -> dict[str, Any]:
    """Every case, by turns, on one rank; JSON-ready.

    "asked": the settings; "apart": how far the two results stand apart at most; "counted": by case
    and side the messages; "blocks": by case the turns; "tiles": by case the seconds of pass-KV's
    tiles; "rates": FLOPs and bytes a second.
    """
    torch.set_num_threads(1)
    chosen, settings = Plan.of(**plan), Sweep(**sweep)
    rank.init("gloo")
    comm = SlowComm(chosen.mesh, rank.rank)
    every, rates = cases(chosen), _rates(chosen, comm, settings.flops_a_byte)
    blocks: dict[str, list[Block]] = {case.name: [] for case in every}
    tiles: dict[str, list[float]] = {case.name: [] for case in every}
    counted, apart = dict[str, Any](), 0.0
    with torch.no_grad():
        for number in range(-1, settings.rounds):  # the first is untimed: results and bytes
            told = {"event": "turn", "rank": rank.rank, "number": number + 1}
            rank.emit({**told, "of": settings.rounds})
            for case in every:
                contexts = contexts_of(chosen, case, comm)
                given = drawn(chosen, case, rank.rank)
                sides = {name: partial(attention, *given, contexts[name]) for name in SIDES}
                if number < 0:
                    found, counted[case.name] = _once(sides, comm)
                    apart = max(apart, found)
                    continue
                blocks[case.name] += _turns(sides, number)
                tiles[case.name].append(tile_seconds(contexts["pass-kv"]))
    return {
        "asked": sweep,
        "apart": apart,
        "counted": counted,
        "blocks": {name: [asdict(block) for block in each] for name, each in blocks.items()},
        "tiles": {name: median(each) for name, each in tiles.items()},
        "rates": rates,
    }


def contexts_of(plan: Plan, case: Case, comm: Comm) -> dict[str, Context]:
    """Both sides over one layout; each notes its spans."""
    layout = shape_of(plan, case).layout
    return {
        side: SlowContext(comm, layout, method=method, overlap=plan.overlap_cp, spans=[])
        for side, method in SIDES.items()
    }


def drawn(plan: Plan, case: Case, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's q[B, H, S/cp, K], k and v[B, G, T/cp, K] of the case; its own numbers."""
    shape = shape_of(plan, case)
    layout, dtype = shape.layout, getattr(torch, plan.dtype)
    generator = torch.Generator().manual_seed(plan.seed + rank)

    def draw(heads: int, length: int) -> Tensor:
        size = (shape.batch, heads, length, shape.head_dim)
        return torch.randn(size, generator=generator).to(dtype)

    keys = layout.share + layout.cached_share
    return draw(shape.heads, layout.share), draw(case.kv_heads, keys), draw(case.kv_heads, keys)


def _rates(plan: Plan, comm: SlowComm, flops_a_byte: float) -> dict[str, float]:
    """FLOPs a second of the largest case's tiles, and bytes a second of its hop, once slowed.

    The slowest rank's, so that all agree.
    """
    case = max(cases(plan), key=lambda each: (each.new, each.kv_heads))
    context = contexts_of(plan, case, comm)["pass-kv"]
    q, k, v = drawn(plan, case, comm.rank)
    with torch.no_grad():
        for _ in range(PROBES):
            attention(q, k, v, context)
        rate = _least(flops(plan, case) / tile_seconds(context))
        comm.rate = rate / flops_a_byte if flops_a_byte else 0.0
        kv, hops = torch.stack((k, v)), list[float]()
        for _ in range(PROBES):
            dist.barrier()
            begin = time.perf_counter()
            context.pass_on(kv, "kv").wait()
            hops.append(time.perf_counter() - begin)
    return {"flops": rate, "bytes_per_s": _least(kv.nbytes / median(hops))}


def _least(mine: float) -> float:
    every = torch.tensor([mine], dtype=torch.float64)
    dist.all_reduce(every, dist.ReduceOp.MIN)
    return float(every)


def _once(
    sides: Mapping[str, Callable[[], Tensor]], comm: Comm
) -> tuple[float, dict[str, list[list[Any]]]]:
    """How far the results stand apart, and what each side sent."""
    results, counted = [], dict[str, list[list[Any]]]()
    for name, attend in sides.items():
        dist.barrier()
        before = len(comm.log)
        results.append(attend())
        counted[name] = [[sent.op, sent.axis, sent.bytes] for sent in comm.log[before:]]
    one, other = results
    return float((one - other).abs().max() / one.abs().max()), counted


def _turns(sides: Mapping[str, Callable[[], Tensor]], number: int) -> list[Block]:
    """Two turns a side; nobody begins one before all are there."""
    blocks = []
    for name in order(tuple(sides), number):
        dist.barrier()
        begin, spent = time.perf_counter(), time.thread_time()
        sides[name]()
        seconds, spent = time.perf_counter() - begin, time.thread_time() - spent
        blocks.append(Block(number, name, 1, seconds, spent))
    return blocks


def tile_seconds(context: Context) -> float:
    """Of all tiles of a turn, median of the turns that the context has seen."""
    assert context.spans is not None
    each, hops = [s.done - s.start for s in context.spans if s.what == "tile"], context.n
    return median(sum(each[at : at + hops]) for at in range(0, len(each), hops)) / 1e9

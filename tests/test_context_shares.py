"""Where a hop stands among a layer's tiles: in the program, as in the code that runs."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from parallel_core import context_moves
from parallel_core import inner_shares as shares
from parallel_core.assemble import program as program_of
from parallel_core.context import METHODS
from parallel_core.context.attention import attention
from parallel_core.context.context import Context
from parallel_core.context.layout import Tile, Travels, work
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op

LONG = {"seq": 1 << 14, "hidden": 64, "layers": 1, "global_batch": 1}
"""Attention is nearly all of a layer: what is not is less than NEAR of it."""
NEAR = 0.035
WAYS = [
    (name, overlap)
    for name, method in METHODS.items()
    for overlap in (True, False)
    if overlap or method.travels != Travels.NOTHING
]
"""Every method with overlap, and those that have hops without."""
BROUGHT = {"kv", "qkv", "da"}
"""What, where it does not come hop by hop, is there before the first tile; results come after."""


def tiles(plan: Plan, place: int) -> list[float]:
    """A rank's tiles, hop by hop, as parts of its attention; one where nothing travels."""
    if plan.context.rings == 1:
        return [1.0]
    each = work(plan.context, True, METHODS[plan.cp_method].travels)[place // plan.context.ulysses]
    return [float(part / (sum(each) or 1)) for part in each]


@pytest.mark.parametrize(("method", "overlap"), WAYS)
@pytest.mark.parametrize("forward", [True, False])
def test_a_hop_starts_when_the_tiles_before_it_are_done(method, overlap, forward):
    """A block is used after it has come, never before; with overlap the messages of a hop share its
    tile by their bytes, and without it nothing is computed under any. Results leave at the end."""
    plan = Plan.of(**LONG, cp=4, cp_method=method, overlap_cp=overlap)
    w = shares.work(plan)
    core = w.core / w.total  # backward both are twice as much
    for place, task in enumerate(tasks(plan, forward=forward)):
        hops, done = tiles(plan, place), 0.0
        moves = context_moves.moves(plan, backward=not forward)
        ahead = Counter[int]()  # bytes of the same hop whose part of the tile is done
        for move, message in zip(moves, task.inner, strict=True):
            name, before, under = message.value.name, message.before, message.under
            assert name == context_moves.value_name(move)
            hop = move.hop
            if hop is None:
                hop = 0 if move.what in BROUGHT else len(hops)
            share = 0.0
            if overlap and move.hop is not None:
                share = hops[hop] / sum(other.bytes for other in moves if other.hop == hop)
            done += before
            due = sum(hops[:hop]) + share * ahead[hop]
            assert done == pytest.approx(core * due, abs=NEAR), (place, name)
            assert under == pytest.approx(core * share * move.bytes, abs=2e-3), (place, name)
            ahead[hop] += move.bytes if move.hop is not None else 0
            done += under
        assert done <= 1.0 + 1e-9


@pytest.mark.parametrize("method", ["ring", "zigzag", "pass-q"])
@pytest.mark.parametrize("forward", [True, False])
def test_what_is_open_while_a_tile_is_computed_is_open_under_it(method, forward):
    """The code that runs, taken down: a message that is posted before the tiles of a hop and
    waited for after them is drawn under them, and no other is."""
    plan = Plan.of(**LONG | {"seq": 64}, cp=4, cp_method=method)
    for place, task in enumerate(tasks(plan, forward=forward)):
        open_under = {
            (hop, f"cp_{what}")
            for hop, what in taken_down(plan, place, forward=forward)
            if tiles(plan, place)[hop]
        }
        moves = context_moves.moves(plan, backward=not forward)
        drawn = {
            (move.hop, message.value.name)
            for move, message in zip(moves, task.inner, strict=True)
            if message.under
        }
        assert drawn == open_under, place


def tasks(plan: Plan, *, forward: bool) -> list[Instr]:
    """The first layer's forward or backward, rank by rank."""
    op = Op.F if forward else Op.B
    found = [
        [i for i in instrs if i.op == op and i.where == "layer0"]
        for instrs in program_of(plan).ranks
    ]
    return [task for (task,) in found]


class Taken(Context):
    """A rank whose messages come back as they went; what it does is taken down."""

    def pass_on(self, x: torch.Tensor, what: str) -> Any:
        self.steps.append(f"post {what}")
        return SimpleNamespace(wait=lambda: self.steps.append(f"wait {what}") or x)

    def tiles(self, hop: int, travels: Travels = Travels.KV) -> tuple[Tile, ...]:
        self.steps.append(f"tile {hop}")
        return super().tiles(hop, travels)

    @cached_property
    def steps(self) -> list[str]:
        return []


def taken_down(plan: Plan, place: int, *, forward: bool) -> set[tuple[int, str]]:
    """(hop, what is under way while its tiles are computed), by the layer's own code."""
    comm: Any = SimpleNamespace(mesh=plan.mesh, rank=place, all_to_all=lambda x, *_: x)
    context = Taken(comm, plan.context, method=plan.cp_method)
    m = plan.model
    shape = (1, m.heads, plan.seq_here, m.head_dim)
    leaves = [torch.zeros(shape, requires_grad=True) for _ in "qkv"]
    a = attention(*leaves, context)
    if not forward:
        context.steps.clear()
        a.sum().backward()
    found, open_now = set[tuple[int, str]](), set[str]()
    for step in context.steps:
        do, what = step.split()
        if do == "tile":
            found |= {(int(what), each) for each in open_now}
        elif do == "post":
            open_now = open_now | {what}
        else:
            open_now = open_now - {what}
    return found


def test_every_hop_but_the_last_has_a_tile_to_hide_under():
    """Ring: kv under the tile before it is needed; dkv, backward, under the next one's."""
    plan = Plan.of(**LONG, cp=4)
    there, back = (context_moves.moves(plan, backward=b) for b in (False, True))
    assert [(m.what, m.hop) for m in there] == [("kv", 0), ("kv", 1), ("kv", 2)]
    assert [m.hop for m in back if m.what == "kv"] == [0, 1, 2]
    assert [m.hop for m in back if m.what == "dkv"] == [1, 2, 3, None]


@pytest.mark.parametrize("recompute", ["none", "selective"])
@pytest.mark.parametrize(
    ("method", "seq"), [("ring", 128), ("zigzag", 129), ("hybrid", 5), ("pass-q", 3)]
)
def test_a_rank_takes_as_long_as_its_own_tiles(method, seq, recompute):
    """Mean work times its share of attention, computed again or not; members of one block alike.
    Short sequences are mostly padding, so that not even zigzag is even."""
    plan = Plan.of(cp=4, cp_method=method, seq=seq, recompute=recompute)
    times, w = shares.uneven(plan), shares.work(plan)
    sums = [sum(hops) for hops in work(plan.context, True, METHODS[method].travels)]
    mean = sum(sums) / len(sums)
    assert times is not None
    for op in (Op.F, Op.B):
        core = w.core if op == Op.F else w.core * (3 if recompute == "selective" else 2)
        other = (w.total - w.core) * (1 if op == Op.F else 2)
        for rank in range(4):
            own = float(sums[rank // plan.context.ulysses] / mean)
            right = (other + core * own) / (other + core)
            instr = Instr(op=op, where="layer0", mb=0)
            assert times(rank, instr) == pytest.approx(right), (op, rank)
    assert times(0, Instr(op=Op.F, where="head", mb=0)) == 1.0
    for place in range(4):
        assert context_moves.shares_of_hops(plan, place) == pytest.approx(tiles(plan, place))


@pytest.mark.parametrize("more", [{}, {"dp": 2}, {"tp": 2}])
def test_every_rank_has_the_program_of_its_own_place(more):
    """The first of a contiguous ring is done after one tile; the last has one at every hop."""
    plan = Plan.of(**LONG | {"global_batch": 2}, cp=4, cp_method="ring", **more)
    program = program_of(plan)
    for rank, instrs in enumerate(program.ranks):
        place = plan.mesh.coordinate(rank)["cp"]
        (task,) = [i for i in instrs if i.op == Op.F and i.where == "layer0"]
        open_under = [m.under > 0 for m in task.inner if m.value.name == "cp_kv"]
        assert open_under == [hop <= place for hop in range(3)], rank

"""Where a hop stands among a layer's tiles: in the program, as in the code that runs."""

from __future__ import annotations

from itertools import product

import pytest

from parallel_core import context_moves
from parallel_core import inner_shares as shares
from parallel_core.assemble import program as program_of
from parallel_core.context import METHODS
from parallel_core.context.layout import work
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op

LONG = {"seq": 1 << 14, "hidden": 64, "layers": 1, "global_batch": 1}
"""Attention is nearly all of a layer: what is not is less than NEAR of it."""
NEAR = 0.035
BROUGHT = {"kv", "qkv", "da"}
"""What, where it does not come hop by hop, is there before the first tile; results come after."""


def tiles(plan: Plan, place: int) -> list[float]:
    """A rank's tiles, hop by hop, as parts of its attention; one where nothing travels."""
    if plan.context.rings == 1:
        return [1.0]
    each = work(plan.context, True, METHODS[plan.cp_method].travels)[place // plan.context.ulysses]
    return [float(part / (sum(each) or 1)) for part in each]


@pytest.mark.parametrize(("method", "overlap"), list(product(METHODS, (True, False))))
@pytest.mark.parametrize("forward", [True, False])
def test_a_hop_starts_when_the_tiles_before_it_are_done(method, overlap, forward):
    """A block is used after it has come, never before; a hop is open under its own tile, with
    overlap, and under nothing without; results leave when all tiles are done."""
    plan = Plan.of(**LONG, cp=4, cp_method=method, overlap_cp=overlap)
    w = shares.work(plan)
    core = w.core / w.total  # backward both are twice as much
    for place, instrs in enumerate(program_of(plan).ranks):
        hops, done, taken = tiles(plan, place), 0.0, set[int]()
        moves = context_moves.moves(plan, backward=not forward)
        op = Op.F if forward else Op.B
        (task,) = [i for i in instrs if i.op == op and i.where == "layer0"]
        for move, message in zip(moves, task.inner, strict=True):
            name, before, under = message.value.name, message.before, message.under
            assert name == context_moves.value_name(move)
            hop = move.hop
            if hop is None:
                hop = 0 if move.what in BROUGHT else len(hops)
            done += before
            # a tile is drawn under one message: a second one of the same hop comes after it
            due = core * sum(hops[: hop + (hop in taken)])
            assert done == pytest.approx(due, abs=NEAR), (place, name)
            fresh = overlap and move.hop is not None and hop < len(hops) and hop not in taken
            assert under == pytest.approx(core * hops[hop] if fresh else 0.0, abs=2e-3), name
            taken |= {hop} if fresh else set()
            done += under
        assert done <= 1.0 + 1e-9


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

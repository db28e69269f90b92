"""Claims about what dispatch and combine send, and what DeepEP and DeepSeek print of it."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.expert.grouping import grouped, together
from parallel_core.expert.placement import static
from parallel_core.expert.quoted import (
    SHEETS,
    claims,
    deepep_normal,
    deepep_rates,
    deepep_times,
    node_limit,
)
from parallel_core.expert.ted import GROUPS, Ted
from parallel_core.expert.traffic import (
    DISPATCHES,
    Spread,
    Width,
    combine_bytes,
    counted,
    dispatch_bytes,
)
from parallel_core.published import table


@st.composite
def spreads(draw):
    node, nodes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    each = draw(st.integers(1, 4))
    reach = draw(st.integers(1, nodes))
    k = draw(st.integers(1, min(node * each * reach, 8)))
    return Spread(experts=node * nodes * each, top_k=k, ranks=node * nodes, node=node, reach=reach)


def test_visits_are_the_mean_over_all_choices():
    """Every pair of six experts on three ranks, written out."""
    pairs = list(combinations(range(6), 2))
    wanted = Fraction(sum(len({e // 2 for e in pair}) for pair in pairs), len(pairs))
    assert Spread(experts=6, top_k=2, ranks=3, node=3).ranks_visited == wanted == Fraction(9, 5)


@given(spreads())
def test_fewer_copies_at_every_step(spread):
    """Once a rank no more than a choice each, once a node no more across; visits within bounds."""
    ways = {how: way(spread) for how, way in DISPATCHES.items()}
    assert ways["once-a-rank"].all <= ways["flat"].all
    assert ways["hierarchical"].across <= ways["once-a-rank"].across
    assert ways["all-gather"].all == spread.ranks - 1
    assert 1 <= spread.nodes_visited <= min(spread.top_k, spread.reached_nodes)
    assert spread.nodes_visited <= spread.ranks_visited <= spread.top_k
    assert ways["flat"].all == Fraction(spread.top_k * (spread.ranks - 1), spread.ranks)


@given(spreads(), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_the_means_are_those_of_random_tokens(spread, seed):
    """4000 tokens with experts drawn within reach, counted one by one: within five errors."""
    rng = np.random.default_rng(seed)
    tokens, in_node = 4000, spread.experts // spread.nodes
    open_nodes = rng.random((tokens, spread.nodes)).argsort(1)[:, : spread.reached_nodes]
    free = (open_nodes[:, :, None] * in_node + np.arange(in_node)).reshape(tokens, -1)
    order = rng.random(free.shape).argsort(1)[:, : spread.top_k]
    routing = np.take_along_axis(free, order, 1)
    home = rng.integers(0, spread.ranks, tokens)
    found = counted(static(spread.experts, spread.ranks), routing, home, spread.node)
    slack = 5 * spread.top_k / 2 / math.sqrt(tokens)
    for how, way in DISPATCHES.items():
        assert float(found[how].inside) == pytest.approx(float(way(spread).inside), abs=slack), how
        assert float(found[how].across) == pytest.approx(float(way(spread).across), abs=slack), how


def test_four_tokens_counted_by_hand():
    """Two nodes of two ranks, two experts a rank; every copy named."""
    routing = np.array([[0, 1], [2, 3], [4, 6], [1, 4]])
    found = counted(static(8, 4), routing, np.array([0, 0, 0, 0]), 2)
    # 0: both at home. 1: both on rank 1, one copy or two. 2: ranks 2 and 3. 3: home and rank 2
    assert (found["flat"].inside * 4, found["flat"].across * 4) == (2, 3)
    assert (found["once-a-rank"].inside * 4, found["once-a-rank"].across * 4) == (1, 3)
    # token 2 goes over once, to rank 2, and from there to rank 3
    assert (found["hierarchical"].inside * 4, found["hierarchical"].across * 4) == (2, 2)
    assert (found["all-gather"].inside, found["all-gather"].across) == (2, 1)


def test_grouping_saves_what_a_dispatch_sends():
    """Experts chosen together on one rank: fewer copies once a rank, as many flat."""
    rng = np.random.default_rng(3)
    teams = rng.permutation(16).reshape(4, 4)
    routing = np.stack([rng.permutation(teams[t % 4])[:2] for t in range(400)])
    home = rng.integers(0, 4, 400)
    plain = counted(static(16, 4), routing, home, 2)
    ours = counted(grouped(together(routing, 16), 4), routing, home, 2)
    assert ours["once-a-rank"].all < 0.65 * plain["once-a-rank"].all
    assert ours["flat"].all == pytest.approx(float(plain["flat"].all), rel=0.1)


def test_bytes_of_an_exchange():
    """Copies times tokens times bytes of one: FP8 there is 0.52 of bf16, and bf16 back."""
    spread = Spread(experts=16, top_k=2, ranks=4, node=2)
    plain, small = Width.plain(256), Width.fp8(256)
    assert (plain.dispatch, plain.combine) == (512, 512)
    assert (small.dispatch, small.combine) == (256 + 8, 512)
    sent = dispatch_bytes(spread, "flat", 100, plain)
    assert (sent.inside, sent.across) == (100 * 512 * 2 / 4, 100 * 512 * 2 * 2 / 4)
    assert combine_bytes(spread, "flat", 100, small) == sent
    assert dispatch_bytes(spread, "flat", 100, small).across == 100 * 264 * 2 * 2 / 4
    for wrong, sentence in (
        ({"node": 3}, "nodes of 3 must divide the 4 ranks"),
        ({"reach": 3}, "reach=3 must be between 1 and 2 nodes"),
        ({"reach": 1, "top_k": 9}, "top_k=9 must be between 1 and the 8 experts in reach"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Spread(**{"experts": 16, "top_k": 2, "ranks": 4, "node": 2, **wrong})


@pytest.mark.parametrize("shape", [(8, 2, 2), (16, 2, 4), (12, 3, 2), (8, 1, 8), (8, 8, 1)])
def test_a_ted_grid_covers_the_world_twice(shape):
    """Places are different on both meshes, groups part the world, experts' groups lie in data."""
    world, tp, ep = shape
    grid = Ted(world=world, tp=tp, ep=ep)
    places = [grid.place(rank) for rank in range(world)]
    assert len({(p.tensor, p.expert, p.expert_data) for p in places}) == world
    assert len({(p.tensor, p.data) for p in places}) == world
    sizes = dict(zip(GROUPS, (tp, ep, grid.expert_data, grid.data), strict=True))
    for name, size in sizes.items():
        groups = {grid.group(name, rank) for rank in range(world)}
        assert sorted(r for group in groups for r in group) == list(range(world))
        assert {len(group) for group in groups} == {size}
        assert all(rank in grid.group(name, rank) for rank in range(world))
    for rank in range(world):
        data = set(grid.group("data", rank))
        together = {
            r for mate in grid.group("expert", rank) for r in grid.group("expert data", mate)
        }
        assert together == data  # experts fold inside data and multiply nothing
    assert grid.group("tensor", 0) == tuple(range(tp))


def test_ted_refuses_what_does_not_divide():
    """A sentence with both numbers."""
    with pytest.raises(ValueError, match="must divide world_size=8"):
        Ted(world=8, tp=2, ep=3)
    with pytest.raises(ValueError, match="no axis 'pipe'"):
        Ted(world=8, tp=2, ep=2).group("pipe", 0)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.integers(1, 64))
def test_dropping_duplicates_moves_bytes_to_the_fast_axis(tp, ep, tokens):
    """The expert axis carries a tp-th, the tensor axis gathers what is missing."""
    grid = Ted(world=tp * ep, tp=tp, ep=ep)
    every = grid.sent(tokens, 2, 128, drop=False)
    once = grid.sent(tokens, 2, 128, drop=True)
    assert every["tensor"] == 0 and once["expert"] * tp == every["expert"]
    # of the rows a rank works on, a tp-th came to it: the others gather the rest from their mates
    assert once["tensor"] == Fraction(tokens * 2 * 128 * (tp - 1), tp)


def test_deepeps_rates_are_its_bytes_over_its_times():
    """Twelve printed rates, each within 1.1 %: k copies, FP8 with scales and header, bf16 back."""
    rows = deepep_rates()
    assert len(rows) == 12
    assert max(abs(row.off) for row in rows) < 0.011
    # bf16 both ways, or one copy a rank, would miss by far: the count is a claim
    assert Width.fp8(7168, 16).dispatch / Width.plain(7168).dispatch == pytest.approx(
        0.517, abs=1e-3
    )


def test_the_wire_alone_explains_most_of_deepeps_times():
    """What leaves the node at 50 GB/s is 67 to 83 % of the printed times, and never more."""
    offs = [row.off for row in deepep_times()]
    assert len(offs) == 10 and all(-0.33 < off < -0.16 for off in offs)


def test_what_really_leaves_a_node_fits_the_card():
    """Printed rates above the card's 50 GB/s count copies that stay at home; without, all fit."""
    rows = {(row.way, row.ep): row for row in deepep_normal()}
    printed = {row["EP"]: row["dispatch_GBps"] for row in table("deepep").rows[:4]}
    assert printed[32] > 50 and printed[64] > 50
    assert all(row.leaving < 50 for row in rows.values() if row.ep > 8)
    assert rows["dispatch", 8].ranks == pytest.approx(
        8 * (1 - math.comb(224, 8) / math.comb(256, 8))
    )
    assert rows["combine", 64].mib / rows["dispatch", 64].mib == pytest.approx(14336 / 7392)


def test_choosing_the_best_nodes_visits_a_few_more_than_even_chances():
    """DeepEP's benchmark takes the four nodes with the best single experts: 3.98, not 3.63.

    Even chances are the model; this is by how much it is off there.
    """
    rng = np.random.default_rng(0)
    scores = np.abs(rng.standard_normal((4000, 8, 32)))
    best = scores.max(-1).argsort(1)[:, -4:]
    mask = np.zeros((4000, 8, 1), dtype=bool)
    np.put_along_axis(mask, best[..., None], True, 1)
    top = np.where(mask, scores, -1).reshape(4000, -1).argsort(1)[:, -8:]
    visited = np.mean([len(set(row // 32)) for row in top])
    ours = float(Spread(experts=256, top_k=8, ranks=64, node=8, reach=4).nodes_visited)
    assert ours == pytest.approx(3.629, abs=1e-3)
    assert visited == pytest.approx(3.984, abs=0.01)


def test_deepseeks_claims_come_out():
    """Five numbers of two papers, worked out again within 2 %; 12.8 experts they round to 13."""
    rows = claims()
    assert len(rows) == 5
    assert max(abs(row.off) for row in rows) < 0.016
    limited = node_limit()
    assert limited["once a node, at most 4"] < limited["once a node"] < limited["once a rank"]
    assert limited["once a node, at most 4"] <= 4 and limited["all-gather"] == 7


def test_none_of_it_loads_torch():
    """What a page only predicts with must not load it."""
    names = (
        *("buffering", "capacity", "grouping", "placement", "quoted"),
        *("replication", "speculation", "ted", "traffic"),
    )
    modules = ", ".join(f"parallel_core.expert.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", SHEETS)
def test_every_sheet_has_its_table(name):
    """What stands beside a published number names that table, and no number is missing."""
    assert table(name).rows
    assert all(row.unit and math.isfinite(row.ours) for row in SHEETS[name]())


def test_no_quoted_number_has_changed():
    """Each column adds up to what it did when it was compared with its source."""
    sums = {"dispatch_GBps": 635, "combine_GBps": 687, "dispatch_us": 909, "combine_us": 1625}
    for column, total in sums.items():
        assert sum(c for c in table("deepep").column(column) if c is not None) == total
    latency = table("dsv3_isca_latency")
    assert sum(latency.column("same_leaf_us")) == pytest.approx(9.73)
    unread = [row["work"] for row in table("moe_claims").rows if not row["primary_read"]]
    assert unread == ["Speculative MoE (Li et al. 2025)"]

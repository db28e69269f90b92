"""What is drawn of experts: the modelled router obeys the real one's rules, and nothing is lost."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core import places
from parallel_core.expert.capacity import drop_rate, even
from parallel_core.expert.placement import imbalance
from parallel_core.expert.routing import ROUTERS, SCORES, Rules, choose
from parallel_core.plan import Plan
from parallel_core.report import predict
from parallel_core.routing_record import Routed, RoutingRecord
from parallel_core.trace import Kind
from parallel_core.views import expert_cure, expert_curves, expert_grid, expert_times, expert_ways
from parallel_core.views.expert_exchange import payload, sentence
from parallel_core.views.expert_expected import choices, expected
from parallel_core.views.expert_rows import Loads, Token, loads, received, routing_of, tokens

SMALL = {"dp": 4, "ep": 4, "experts": 8, "layers": 2, "hidden": 64, "seq": 32, "global_batch": 8}
LESSON = [40, 10, 10, 10, 10, 20, 20, 8]


def plan(**other):
    """A small plan of four ranks that share eight experts."""
    return Plan.of(**{**SMALL, **other})


# -- the modelled router ---------------------------------------------------------------------------


@given(
    seed=st.integers(0, 999),
    router=st.sampled_from(ROUTERS),
    score=st.sampled_from(SCORES),
    groups=st.sampled_from([(1, None), (4, 2), (2, 1)]),
    top_k=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_modelled_router_chooses_as_the_real_one(seed, router, score, groups, top_k):
    """The same logits give the same choices and the same drops."""
    count, reach = (1, None) if router == "expert-choice" else groups
    capacity = {} if router == "dropless" else {"capacity": 1.0}
    fields = {"expert_groups": count, "group_limit": reach}
    m = plan(router=router, score=score, top_k=top_k, **fields, **capacity).model
    logits = np.random.default_rng(seed).standard_normal((24, 8))
    asked, kept = choices(logits, m)
    rules = Rules(experts=8, top_k=top_k, router=router, score=score, capacity=m.capacity,
                  groups=count, reach=reach or count)  # fmt: skip
    real = choose(torch.from_numpy(logits)[None], rules)
    assert (real.asked[0].numpy() == asked).all()
    assert (real.kept[0].numpy() == kept).all()


@pytest.mark.parametrize("layout", [{}, {"dp": 2, "cp": 2}, {"tp": 2}, {"microbatches": 2},
                                    {"pp": 2, "microbatches": 2}, {"dp": 8}])  # fmt: skip
def test_every_token_is_drawn_once_whatever_the_layout(layout):
    """All tokens of the step, k choices each; none from a rank that only repeats another's."""
    p = plan(**layout)
    found = loads(expected(p), step=0, layer=0)
    assert sum(found.asked) == sum(found.kept) == p.tokens_per_step * p.model.top_k
    assert sum(received(expected(p), step=0)) == sum(found.kept)


def test_a_leaning_router_floods_the_first_rank_and_an_even_one_nobody():
    """The more it leans the fuller the first; without skew the loads are even."""
    fullest = [loads(expected(plan(skew=s)), step=0, layer=0) for s in (0.0, 0.2, 0.5, 1.0)]
    each = [found.imbalance for found in fullest]
    assert each == sorted(each) and each[0] < 1.15 and each[-1] > 3.7
    assert {found.fullest for found in fullest[1:]} == {0}


def test_even_chances_drop_what_the_binomial_says():
    """Capacity 1.0 and one choice: the modelled drops agree with the formula within two points."""
    p = plan(top_k=1, router="capacity", capacity=1.0, seq=64, global_batch=64)
    found = loads(expected(p), step=0, layer=0)
    assert found.room == 8 * 64
    assert found.dropped / sum(found.asked) == pytest.approx(drop_rate(even(8, 1), 64, 8), abs=0.02)


def test_too_many_tokens_are_not_drawn():
    """A step too large for a page gives none, not a slow page."""
    assert expected(plan(seq=8192, global_batch=1024)) is None


# -- the record ------------------------------------------------------------------------------------


def record_of(p, counts, kept=None):
    """A record of one step: counts[rank][expert]."""
    kept = counts if kept is None else kept
    rows = [
        Routed(rank=r, step=0, mb=0, layer=0, asked=tuple(a), kept=tuple(k))
        for r, (a, k) in enumerate(zip(counts, kept, strict=True))
    ]
    return RoutingRecord(p, rows)


def test_loads_add_up_by_the_rank_that_holds_the_experts():
    """The lesson's loads: 2.5 times the mean by expert, capacity 1.25 drops 20 of 128."""
    found = Loads(asked=tuple(LESSON), kept=tuple(min(n, 20) for n in LESSON), ranks=4, room=20)
    assert imbalance(found.asked) == 2.5
    assert (found.dropped, found.rank_loads) == (20, [30, 20, 30, 28])
    assert found.by_rank(found.asked) == [50, 20, 30, 28] and found.fullest == 0


def test_rows_a_rank_received_come_from_its_whole_group():
    """Two groups of two ranks: nobody receives from the other group."""
    p = Plan.of(dp=4, ep=2, experts=2, top_k=1, seq=8, global_batch=4)
    record = record_of(p, [(5, 3), (2, 6), (8, 0), (1, 7)])
    groups = p.mesh.groups("ep")
    got = received(record, step=0)
    assert len(groups) == 2
    for group in groups:
        for expert, rank in enumerate(group):
            assert got[rank] == sum(record.rows[r].kept[expert] for r in group)


def test_bytes_are_the_rows_four_times_and_the_counts_apart():
    """Each rank: what it gave and what came, both ways; counts of rows are told without."""
    p = plan()
    record = expected(p)
    width = p.model.hidden * 4
    got = received(record, step=0)
    for rank, (want, none) in enumerate(expert_ways.handed(record, None)):
        given = sum(sum(row.kept) for row in record.rows if row.rank == rank)
        assert (want, none) == (2 * (given + got[rank]) * width, None)
    counted = [want + 8 * 8 for want, _ in expert_ways.handed(record, None)]
    assert all(want == got for want, got in expert_ways.handed(record, counted))


# -- the grid --------------------------------------------------------------------------------------


def picture(p, most=64, kind=Kind.MODELLED, dark=False):
    """The grid of a plan's modelled router."""
    record = expected(p)
    found = expert_grid.few(tokens(record, step=0, layer=0), most)
    return expert_grid.Picture(
        tokens=found, loads=loads(record, step=0, layer=0), kind=kind, dark=dark
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("experts", [4, 8, 64])
def test_each_choice_is_one_tile_hollow_where_it_was_dropped(experts, dark):
    """Tiles and drops of the picture are those of its tokens; ranks are parted by heavy lines."""
    drawn = picture(plan(experts=experts, router="capacity", capacity=1.0, skew=0.3), dark=dark)
    svg = expert_grid.drawing(drawn)
    wants = [went for token in drawn.tokens for _, went in token.choices]
    assert len(re.findall("<title>token ", svg)) == len(wants) == 64 * 2
    assert svg.count("<g class='d'") == wants.count(False) > 0
    assert len(re.findall("y1='30.0' y2='(?!30)", svg)) == 5  # a border on both sides of four ranks
    assert svg.count("class='capacity'") == 2 and svg.count("class='mean'") == 2
    assert f"{drawn.loads.dropped:,} of" in expert_grid.in_words(drawn)


def test_without_a_capacity_there_is_no_line_for_it():
    """Dropless: no roof, nothing hollow."""
    svg = expert_grid.drawing(picture(plan(skew=0.3)))
    assert "<line class='capacity'" not in svg and "<g class='d'" not in svg
    assert "<rect class='lost'" not in svg


def test_modelled_tiles_are_dashed_and_measured_ones_are_not():
    """Where a mark comes from is seen on it."""
    dashed = [expert_grid.drawing(picture(plan(), kind=kind)).count("2.5 1.5") for kind in
              (Kind.MODELLED, Kind.MEASURED)]  # fmt: skip
    assert dashed == [1, 0]


def test_a_few_tokens_are_as_many_of_every_rank():
    """Sixteen of each of four ranks; a token nobody chose is still a row."""
    drawn = picture(plan(router="expert-choice", capacity=0.5), most=32)
    assert [sum(t.rank == r for t in drawn.tokens) for r in range(4)] == [8] * 4
    assert any(not token.choices for token in drawn.tokens)


def test_a_sentence_for_each_token():
    """Where it goes, where it stays, what dropped it; the page's script gets one a row."""
    told = sentence(Token(1, 1, 5, ((0, True), (2, True), (4, False))), 2)
    assert told == "Token 5 on r1: to expert 0 (r0); expert 2 is here; no place in expert 4 (r2)."
    assert sentence(Token(0, 0, 3, ()), 2).endswith("nobody took it.")
    drawn = picture(plan())
    data = payload(drawn, run="a")
    assert len(data["says"]) == data["figure"].count("class='token'") == len(drawn.tokens)


def test_the_script_walks_from_token_to_token():
    """Its pure function, under node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not here")
    script = str(places.assets() / "experts.test.mjs")
    done = subprocess.run([node, "--test", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


# -- cures, ways, times ----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 500), min_size=8, max_size=8).filter(any), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_placements_lose_no_row_and_are_never_worse_where_they_were_made(then, spare):
    """Every placement computes all rows; balanced ones never exceed static on what they saw."""
    routing = np.array([[0, 4], [1, 5], [0, 4]])
    found = expert_cure.cures(then, LESSON, 4, spare, routing)
    for cure in found:
        assert sum(cure.then) == pytest.approx(sum(then))
        assert sum(cure.later) == pytest.approx(sum(LESSON))
    static, *others = found
    assert all(max(c.then) <= max(static.then) + 1e-9 for c in others if c.name != "grouped")
    grouped = found[-1]
    assert grouped.name == "grouped" and grouped.visits <= static.visits
    assert len(expert_cure.slots_table(found)) == 4


def test_the_best_placement_is_named_only_where_it_helps():
    """Even loads: nothing beats what there is."""
    none = np.zeros((0, 2), dtype=np.int64)
    assert "No placement beats" in expert_cure.in_words(
        expert_cure.cures([5] * 8, [5] * 8, 4, 0, none)
    )
    hot = expert_cure.cures([80, 5, 5, 5, 5, 5, 5, 5], [80, 5, 5, 5, 5, 5, 5, 5], 4, 1, none)
    assert "Replicated, 1 spare" in expert_cure.in_words(hot)


def test_copies_of_a_token_exact_and_counted():
    """Even routing of k choices over R ranks crosses k (R-1)/R times; samples come close to it."""
    p = plan(seq=64, global_batch=64)
    record = expected(p)
    routing, home = routing_of(tokens(record, step=0, layer=0), 2)
    flat, once, level, everyone = expert_ways.ways(p, 2, routing, home)
    assert float(flat.even.all) == 1.5
    assert float(flat.found.all) == pytest.approx(1.5, abs=0.15)
    assert once.even.all <= flat.even.all <= everyone.even.all
    assert level.even.across <= once.even.across
    assert expert_ways.node_sizes(4) == [1, 2, 4]
    assert len(expert_ways.table([flat, once])) == 2


def test_only_a_schedule_with_other_work_at_hand_hides_messages():
    """DualPipe computes under a dispatch; a plain step cannot, and the words say so."""
    for fields, hides in (({}, False), ({"dp": 2, "ep": 2, "pp": 2, "schedule": "dualpipe",
                                         "microbatches": 4}, True)):  # fmt: skip
        p = plan(**fields)
        found = expert_times.shares(p, predict(p), received(expected(p), step=0), 0)
        assert [share.home for share in found] == [
            p.mesh.coordinate(r)["ep"] for r in range(p.world_size)
        ]
        assert (sum(share.hidden_ns for share in found) > 0) == hides
        said = expert_times.hidden_in_words(found)
        assert said.startswith("Of" if hides else "Nothing hides")
        assert len(expert_times.figure(found, p.ep, "modelled").data) == 2


def test_the_curves_say_first_and_last_half():
    """One step alone may be lucky: what is told is the mean of the last half."""
    steps = [{"step": s, "rank_imbalance": x, "dropped": 0, "asked": 8} for s, x in
             enumerate((3.0, 3.0, 1.0, 2.0))]  # fmt: skip
    assert "3.00 times the mean at first and 1.50" in expert_curves.in_words("This", steps)
    assert "none is dropped" in expert_curves.in_words("This", steps)
    lossy = [{**step, "dropped": 2} for step in steps]
    assert "25.0 % of choices are dropped" in expert_curves.in_words("This", lossy)
    assert list(expert_curves.dropped({"a": lossy}, ["b"]).data[0].y) == [25.0] * 4
    assert list(expert_curves.imbalance({"a": steps}, ["b"]).data[0].y) == [3.0, 3.0, 1.0, 2.0]

"""Claims about capacity: how many choices are dropped, exactly, and what papers print of it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from parallel_core.expert.capacity import (
    drop_rate,
    drop_rate_poisson,
    dropped,
    empty,
    even,
    padded,
    places,
    skewed,
)
from parallel_core.expert.quoted import drops, switch_speeds
from parallel_core.published import table

LOADS = [40, 10, 10, 10, 10, 20, 20, 8]


def test_the_lessons_capacity():
    """128 choices on 8 experts at 1.25: 20 places, 20 dropped, 15.6 %; and 52 places empty."""
    room = places(128, experts=8, top_k=1, factor=1.25)
    assert room == 20
    assert dropped(LOADS, room) == 20 and dropped(LOADS, room) / 128 == 0.15625
    assert empty(LOADS, room) == 52
    assert padded(LOADS, room) == 1.25


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(0, 60))
def test_every_place_and_every_choice_is_accounted_for(loads, room):
    """Choices kept plus places empty are all places; with room for the fullest none is dropped."""
    kept = sum(loads) - dropped(loads, room)
    assert kept + empty(loads, room) == len(loads) * room
    assert dropped(loads, max(loads)) == 0


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 8), st.floats(0.1, 4))
def test_places_hold_an_even_load_from_factor_one_on(seq, experts, k, factor):
    """And never more than a sequence has tokens."""
    assume(k <= experts)
    room = places(seq, experts=experts, top_k=k, factor=factor)
    assert 1 <= room <= seq
    if factor >= 1:
        assert room * experts >= k * seq
    with pytest.raises(ValueError, match="above 0"):
        places(seq, experts=experts, top_k=k, factor=0)


@given(st.integers(1, 12), st.integers(1, 4), st.floats(0, 3))
def test_skewed_probabilities_are_probabilities(experts, k, exponent):
    """None above one, k together, falling, and in Zipf's proportion among those below one."""
    assume(k <= experts)
    picks = skewed(experts, k, exponent)
    assert sum(picks) == pytest.approx(k)
    assert max(picks) <= 1
    assert all(a >= b * (1 - 1e-12) for a, b in pairwise(picks))
    free = [e for e in range(experts) if picks[e] < 1 - 1e-12]
    for e in free[1:]:
        wanted = ((free[0] + 1) / (e + 1)) ** exponent
        assert picks[e] / picks[free[0]] == pytest.approx(wanted)
    assert even(experts, k) == pytest.approx((k / experts,) * experts)


@given(
    st.integers(1, 12),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
    st.integers(0, 12),
)
def test_the_rate_is_the_sum_over_all_loads_of_a_binomial(seq, picks, room):
    """Written out, term by term."""
    assume(sum(picks) > 0.01)
    wanted = sum(
        math.comb(seq, n) * p**n * (1 - p) ** (seq - n) * max(n - room, 0)
        for p in picks
        for n in range(seq + 1)
    )
    assert drop_rate(picks, seq, room) == pytest.approx(wanted / (sum(picks) * seq), abs=1e-12)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_rate_is_what_random_tokens_lose(exponent):
    """2000 sequences of 64 tokens, two different experts each: within four standard errors.

    Two experts of a token hang together, which moves no mean.
    """
    rng = np.random.default_rng(1)
    picks = np.array(skewed(8, 2, exponent))
    # systematic sampling: one point in [0, 1), another 1 further on, over the picks laid end to end
    ends = np.cumsum(picks)
    points = rng.random((2000, 64, 1)) + np.arange(2)
    chosen = np.minimum(np.searchsorted(ends, points, side="right"), 7)
    assert (chosen[..., 0] != chosen[..., 1]).all()
    room = places(64, experts=8, top_k=2, factor=1.25)
    loads = (chosen[..., None] == np.arange(8)).sum((1, 2))
    lost = np.maximum(loads - room, 0).sum(1) / 128
    error = lost.std() / math.sqrt(len(lost))
    assert abs(lost.mean() - drop_rate(picks.tolist(), 64, room)) < 4 * error
    assert 4 * error < 0.004


def test_the_router_itself_drops_as_many():
    """Random logits through the layer's own router: the same rate, within four standard errors."""
    torch = pytest.importorskip("torch")
    from parallel_core.expert.routing import CAPACITY, Rules, choose

    rules = Rules(experts=8, top_k=2, router=CAPACITY, capacity=1.0)
    assert rules.places(64) == places(64, experts=8, top_k=2, factor=1.0)
    logits = torch.randn(1000, 64, 8, generator=torch.Generator().manual_seed(0))
    kept = choose(logits, rules).kept.sum((1, 2)).double()
    lost = 1 - kept / 128
    error = float(lost.std()) / math.sqrt(1000)
    assert abs(float(lost.mean()) - drop_rate(even(8, 2), 64, rules.places(64))) < 4 * error


def test_more_room_drops_less_and_many_experts_drop_as_a_poisson():
    """From one expert's binomial to the limit, from below."""
    rates = [drop_rate(even(8, 2), 64, room) for room in range(65)]
    assert rates == sorted(rates, reverse=True) and rates[0] == pytest.approx(1) and rates[64] == 0
    limit = drop_rate_poisson(16, 16)
    near = [drop_rate(even(e, 1), 16 * e, 16) for e in (4, 16, 64, 1024)]
    assert near == sorted(near) and near[-1] < limit
    assert near[-1] == pytest.approx(limit, rel=1e-3)


def test_every_derived_rate_of_the_table_is_ours():
    """28 rates, to the last digit of the table."""
    rows = drops()
    assert len(rows) == 28
    for row in rows:
        assert row.ours == pytest.approx(row.quoted, abs=5.1e-4), row.what
    whole = {row.what: row.ours for row in rows}
    for mu in (8, 32, 512):  # about 0.4 / sqrt(mu) at factor 1
        assert whole[f"{mu} tokens an expert, factor 1"] == pytest.approx(
            40 / math.sqrt(mu), rel=0.02
        )


def test_switch_slows_down_less_than_its_buffers_grow():
    """Twice the room costs 16 % more time; a straight line between misses the middle by 6 %."""
    rows = {row.what: row for row in switch_speeds()}
    ends = [rows["Switch-Base, factor 1"], rows["Switch-Base, factor 2"]]
    assert all(row.off == pytest.approx(0) for row in ends)
    middle = rows["Switch-Base, factor 1.25"]
    assert middle.quoted / ends[0].quoted == pytest.approx(0.91)
    assert middle.off == pytest.approx(0.056, abs=0.001)
    # the authors call it unexpected: MoE is slower at 1.25 than at 2, which no line gives
    moe = switch_speeds("MoE-Base top2")
    assert moe[1].quoted < moe[2].quoted and moe[1].ours > moe[2].ours


SUMS = {
    "switch_table1": {"examples_per_s": 8110, "hours_to_thresh": 628.8, "neg_log_perp": -14.161},
    "capacity_drop_derived": {"CF_1.0": 43.675, "CF_1.25": 8.49, "CF_1.5": 1.969, "CF_2.0": 0.08},
}


@pytest.mark.parametrize("name", SUMS)
def test_no_quoted_number_has_changed(name):
    """Each column adds up to what it did when it was compared with its source."""
    for column, total in SUMS[name].items():
        cells = [cell for cell in table(name).column(column) if cell is not None]
        assert sum(cells) == pytest.approx(total, rel=1e-12), column

"""zb-auto: no order is shorter on small pipelines, no bubble above the paper's, no cap exceeded."""

from __future__ import annotations

import math
import sys
import time
from itertools import pairwise, product
from random import Random

import pytest
from brute_force import makespan, shortest, words
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.fields import PlanError
from parallel_core.pipeline.figures import Figures, figures
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.picture import picture
from parallel_core.pipeline.schedule import Times
from parallel_core.pipeline.zb_auto import zb_auto
from parallel_core.pipeline.zb_h1 import zb_h1
from parallel_core.pipeline.zb_h2 import zb_h2
from parallel_core.program import Op
from parallel_core.published import Row, table

RATES = table("zb_bubble_rates").rows
each_rate = pytest.mark.parametrize("row", RATES, ids=lambda row: f"{row['model']}-m{row['m']}")
SHAPES = {"1.5B": (2304, 24), "14.6B": (5120, 40)}  # hidden size, heads; 1,024 tokens (Table 3)


# ---------------------------------------------------------------------------- how short


@pytest.mark.parametrize("seed", range(24))
def test_brute_force_equals_trying_every_order_of_every_rank(seed):
    """On pipelines small enough to write all orders down."""
    draw = Random(seed)
    p, m = draw.choice([(1, 3), (2, 2), (2, 3), (3, 2)])
    times, cap = uneven(draw, p), draw.choice([1, 2, m])
    tried = min(makespan(ranks, times) for ranks in product(words(m, cap), repeat=p))
    assert shortest(m, times, cap) == pytest.approx(tried)


def uneven(draw: Random, p: int) -> Times:
    """Times of any kind: even or not, round or not, some of them next to nothing."""
    one = draw.choice(
        [
            lambda: draw.uniform(0.3, 3.0),
            lambda: float(draw.choice([1, 2, 3])),
            lambda: draw.choice([0.1, 1.0, 5.0]),
            lambda: draw.choice([0.0, 1.0, draw.random()]),
        ]
    )
    f, i, w = (tuple(one() for _ in range(p)) for _ in range(3))
    return Times(f=f, i=i, w=w, comm=draw.choice([0.0, 0.1, 0.3, 1.0, 2.0]))


def against_brute_force(seed: int) -> float:
    """Makespan of zb-auto over the least there is, on random times, sizes and cap."""
    draw = Random(seed)
    p, m = draw.choice([1, 2, 3, 3, 3]), draw.choice([1, 2, 3, 4, 4, 4])
    times, cap = uneven(draw, p), draw.choice([1, 2, p, p, p + 1, 2 * p - 1, m])
    found = figures(zb_auto(p, m, times=times, cap=cap), times).makespan
    least = shortest(m, times, cap, under=found * 1.001 + 1e-6)
    return found / least if least else 1.0


@given(seed=st.integers(0, 10**9))
@settings(max_examples=150, deadline=None)
def test_no_order_is_shorter_on_small_pipelines(seed):
    """p <= 3, m <= 4, uneven times, caps from 1 up: within 2 % is asked, nothing shorter exists."""
    assert against_brute_force(seed) <= 1 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_no_order_is_shorter_on_many_small_pipelines(block):
    """The same 5,000 times over."""
    assert max(map(against_brute_force, range(500 * block, 500 * block + 500))) <= 1 + 1e-6


@given(seed=st.integers(0, 10**9), p=st.integers(1, 5), m=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_never_longer_than_the_orders_made_by_hand(seed, p, m):
    """ZB-H1 with memory for p, ZB-H2 with memory for 2p-1, under any times."""
    times = uneven(Random(seed), p)
    for hand, cap in ((zb_h1(p, m), p), (zb_h2(p, m), 2 * p - 1)):
        auto = figures(zb_auto(p, m, times=times, cap=cap), times)
        assert auto.makespan <= figures(hand, times).makespan * (1 + 1e-6) + 1e-6


def test_four_ranks_and_eight_microbatches():
    """Unit times: 27 beats with memory for 4 as for 7, but with 7 no rank idles inside."""
    four, seven = (figures(zb_auto(4, 8, cap=cap)) for cap in (4, 7))
    assert four.makespan == seven.makespan == 27
    assert four.peak_in_flight == [4] * 4
    assert max(four.internal_idle) == 3
    assert seven.internal_idle == [0] * 4


# ---------------------------------------------------------------------------- the paper


def profiled(row: Row) -> Times:
    """The times of Table 9, in ms."""
    tf, ti, tw = row["TF_ms"], row["TB_ms"], row["TW_ms"]
    return Times.even(row["p"], tf=tf, ti=ti, tw=tw, tcomm=row["Tcomm_ms"])


def kept(row: Row) -> float:
    """M_W / M_B of Table 1: 32 sbh of the sb (34h + 5as) bytes a layer keeps wait for W."""
    hidden, heads = SHAPES[row["model"]]
    return 32 * hidden / (34 * hidden + 5 * heads * 1024)


def rate(row: Row, cap: float, share: float) -> Figures:
    order = zb_auto(row["p"], row["m"], times=profiled(row), cap=cap, kept=share)
    assert most_held(order, share) <= cap + 1e-6
    return figures(order, profiled(row))


@each_rate
def test_zb_1p_is_as_printed(row):
    """Memory for p microbatches, counted whole until W: Table 5's rate at most."""
    assert rate(row, row["p"], 1.0).bubble_rate <= row["r_ZB_1p"] + 0.0005


@each_rate
def test_zb_2p_is_as_printed(row):
    """Memory for 2p microbatches, where I frees its part, as in the paper: Table 5's search."""
    assert rate(row, 2 * row["p"], kept(row)).bubble_rate <= row["r_ZB_2p"] + 0.001


def test_counted_whole_until_w_the_printed_zb_2p_cannot_be_reached():
    """After its last I the last rank has at most `cap` W left, and rank 0 waits for that I.

    So no order has a span below the bound, which is above what Table 5 prints; zb-auto meets it.
    """
    row = table("zb_bubble_rates").row(model="1.5B", m=32)
    p, cap, (f, i, w, comm) = row["p"], 16, (row[f"T{x}_ms"] for x in ("F", "B", "W", "comm"))
    work = row["m"] * (f + i + w)
    bound = 1 - work / (work + (p - 1) * (f + i + 2 * comm) + w - cap * w)
    assert bound > row["r_ZB_2p"] + 0.07
    assert bound - 1e-9 <= rate(row, cap, 1.0).bubble_rate <= bound + 0.001


def test_the_largest_table_takes_seconds():
    """p = 16, m = 128, in CPU time: about 2 s where this was written."""
    row, began = RATES[-1], time.process_time()
    zb_auto(row["p"], row["m"], times=profiled(row), cap=row["p"])
    assert time.process_time() - began < 15


# ---------------------------------------------------------------------------- what it must keep


def most_held(order: Order, share: float = 1.0) -> float:
    """The most microbatches of memory in use on a rank: 1 from F to I, `share` from I to W."""
    change = {Op.F: 1.0, Op.I: share - 1, Op.W: -share}
    most = 0.0
    for tasks in order.ranks:
        held = 0.0
        for task in tasks:
            held += change[task.op]
            most = max(most, held)
    return most


@given(
    seed=st.integers(0, 10**9),
    p=st.integers(1, 6),
    m=st.integers(1, 9),
    cap=st.none() | st.floats(1, 12) | st.integers(1, 12),
    share=st.sampled_from([0.0, 0.4, 1.0]),
)
@settings(max_examples=80, deadline=None)
def test_legal_within_the_cap_and_the_same_every_time(seed, p, m, cap, share):
    """For any p, m, times and cap from one microbatch up."""
    times = uneven(Random(seed), p)
    order = zb_auto(p, m, times=times, cap=cap, kept=share)
    legal(order, p=p, m=m)
    assert order.splits
    assert most_held(order, share) <= (m if cap is None else cap) + 1e-6
    assert order == zb_auto(p, m, times=times, cap=cap, kept=share)


@given(seed=st.integers(0, 10**9), p=st.integers(1, 3), m=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_more_memory_never_makes_it_longer(seed, p, m):
    """Up to m microbatches, beyond which there is nothing to hold; no cap is the same as m."""
    times = uneven(Random(seed), p)
    caps = [*range(1, m + 1), None]
    spans = [figures(zb_auto(p, m, times=times, cap=cap), times).makespan for cap in caps]
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(spans))
    assert spans[-1] == spans[-2]


def test_the_picture_in_its_docstring_is_true():
    """Unit times, memory for p."""
    drawn = picture(sys.modules[zb_auto.__module__].__doc__)
    assert drawn.order.ranks == zb_auto(drawn.p, drawn.m, cap=drawn.p).ranks
    assert drawn.order.ranks == zb_h1(drawn.p, drawn.m).ranks


@pytest.mark.parametrize(
    ("wrong", "field", "nearest"),
    [
        ({"cap": 0}, "cap", 1),
        ({"cap": 0.99}, "cap", 1),
        ({"cap": -3}, "cap", 1),
        ({"cap": math.nan}, "cap", 1),
        ({"kept": 1.5}, "kept", 1),
        ({"kept": -0.1}, "kept", 0),
        ({"times": Times.even(3)}, "pp", 3),
        ({"p": 0}, "pp", 1),
        ({"m": 0}, "microbatches", 1),
    ],
)
def test_refuses_with_a_value_that_works(wrong, field, nearest):
    """One sentence: the field, its value, the rule, and what works instead."""
    with pytest.raises(PlanError) as error:
        zb_auto(**{"p": 2, "m": 4, **wrong})
    assert (error.value.field, error.value.nearest) == (field, nearest)

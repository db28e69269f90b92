"""What the schedules cost: the textbook's numbers, and those the papers print."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.pipeline.figures import figures, figures_of, simulated
from parallel_core.pipeline.gpipe import gpipe
from parallel_core.pipeline.interleaved import interleaved
from parallel_core.pipeline.naive import naive
from parallel_core.pipeline.one_f_one_b import one_f_one_b
from parallel_core.pipeline.order import Order, Task
from parallel_core.pipeline.pipedream import pipedream
from parallel_core.pipeline.schedule import Times
from parallel_core.pipeline.zb_h1 import zb_h1
from parallel_core.pipeline.zb_h2 import zb_h2
from parallel_core.program import Op
from parallel_core.published import Row, table

exactly = pytest.approx  # times are whole nanoseconds of a unit: 1e-6 is far from any of these
RATES = table("zb_bubble_rates").rows
each_rate = pytest.mark.parametrize("row", RATES, ids=lambda row: f"{row['model']}-m{row['m']}")
each_small = pytest.mark.parametrize(
    "row",
    [row for row in table("zb_table12").rows if row["model"] in {r["model"] for r in RATES}],
    ids=lambda row: f"{row['model']}-m{row['m']}",
)
sizes = {"p": st.integers(1, 6), "m": st.integers(1, 10)}
beats = {
    "f": st.integers(1, 5),
    "i": st.integers(1, 5),
    "w": st.integers(0, 5),
}


def profiled(row: Row) -> Times:
    """The times of Table 9, in ms."""
    tf, ti, tw = row["TF_ms"], row["TB_ms"], row["TW_ms"]
    return Times.even(row["p"], tf=tf, ti=ti, tw=tw, tcomm=row["Tcomm_ms"])


# ---------------------------------------------------------------------------- the textbook


@pytest.mark.parametrize(
    ("order", "makespan"),
    [
        (naive(4, 8), 96),
        (gpipe(4, 8), 33),
        (one_f_one_b(4, 8), 33),
        (pipedream(4, 8), 33),
        (interleaved(4, 8, 2), 28.5),
        (zb_h1(4, 8), 27),
        (zb_h2(4, 8), 27),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_makespans_of_four_ranks_and_eight_microbatches(order, makespan):
    """p=4, m=8, F=1, B=2: the work is 24, and the rest is bubble."""
    found = figures(order)
    assert found.makespan == exactly(makespan)
    assert found.work == exactly([24] * 4)
    assert found.bubble_ratio == exactly(makespan / 24 - 1)
    assert found.bubble_fraction == exactly(1 - 24 / makespan)


def test_1f1b_frees_sooner_than_gpipe():
    """In flight at most: GPipe all 8 on every rank, 1F1B 4, 3, 2 and 1, interleaved up to 5.5."""
    assert figures(gpipe(4, 8)).peak_in_flight == [8, 8, 8, 8]
    assert figures(one_f_one_b(4, 8)).peak_in_flight == [4, 3, 2, 1]
    assert figures(interleaved(4, 8, 2)).peak_in_flight == [5.5, 4.5, 3.5, 2.5]


def test_zb_h1_saves_six_beats_within_1f1bs_memory():
    """27 beats instead of 33, and no rank holds more than 4 microbatches from F to W."""
    assert figures(zb_h1(4, 8)).peak_in_flight == [4, 4, 4, 4]
    assert figures(one_f_one_b(4, 8)).makespan - figures(zb_h1(4, 8)).makespan == exactly(6)


def test_zb_h2_buys_the_inner_bubble_with_memory():
    """Cap 2p-1 = 7: no rank idles inside, yet the step ends at 27, 24 of work and 3 to fill."""
    found = figures(zb_h2(4, 8))
    assert found.peak_in_flight == [7, 7, 7, 7]
    assert found.internal_idle == exactly([0] * 4, abs=1e-6)
    assert found.bubble_rate == exactly(0, abs=1e-6)
    assert found.makespan == exactly(27)
    assert max(figures(zb_h1(4, 8)).internal_idle) > 0.5


@pytest.mark.parametrize(("rank", "makespan"), [(0, 40.5), (1, 42), (2, 43.5), (3, 45)])
def test_where_a_slow_stage_sits_matters_to_1f1b_only(rank, makespan):
    """A stage 1.5 times as slow: under 1F1B late stages cost more, under GPipe all the same."""
    times = Times.even(4, slow={rank: 1.5})
    assert figures(one_f_one_b(4, 8), times).makespan == exactly(makespan)
    assert figures(gpipe(4, 8), times).makespan == exactly(45)


def test_how_many_microbatches_keep_the_bubble_under_five_percent():
    """At p=4 it takes 57 for 5 % of the total, 60 for 5 % of the ideal time."""
    enough = (figures(one_f_one_b(4, m)).bubble_fraction <= 0.05 + 1e-9 for m in (56, 57))
    assert list(enough) == [False, True]
    enough = (figures(one_f_one_b(4, m)).bubble_ratio <= 0.05 + 1e-9 for m in (59, 60))
    assert list(enough) == [False, True]


def test_the_rate_is_of_the_busiest_rank_and_the_longest_span():
    """GPipe, two ranks, the second twice as slow: 6 beats of 9, and ranks that differ."""
    found = figures(gpipe(2, 1), Times.even(2, slow={1: 2.0}))
    assert (found.work, found.spans, found.idle) == ([3, 6], [9, 6], [6, 3])
    assert found.bubble_rate == exactly(1 - 6 / 9) and found.internal_idle == [6, 0]


@pytest.mark.parametrize("late", [0, 12_345_678_901])
def test_time_counts_from_the_first_task(late):
    """The clock of a run begins anywhere; no figure may know of it."""
    order, times = zb_h1(3, 5), Times.even(3, slow={1: 1.5})
    there = simulated(order, times)
    moved = [
        replace(s, t_post=s.t_post + late, t_start=s.t_start + late, t_done=s.t_done + late)
        for s in there.spans
    ]
    assert figures_of(replace(there, spans=tuple(moved)), order) == figures(order, times)


# ---------------------------------------------------------------------------- the formulas


@given(**sizes, **beats)
def test_gpipe_and_1f1b_share_one_bubble(p, m, f, i, w):
    """(p-1)/m of the ideal time, (p-1)/(m+p-1) of the total, whatever F and B take."""
    for schedule in (gpipe, one_f_one_b, pipedream):
        found = figures(schedule(p, m), Times.even(p, tf=f, ti=i, tw=w))
        assert found.makespan == exactly((m + p - 1) * (f + i + w))
        assert found.bubble_ratio == exactly((p - 1) / m)
        assert found.bubble_fraction == exactly((p - 1) / (m + p - 1))
    alone = figures(naive(p, m), Times.even(p, tf=f, ti=i, tw=w))
    assert alone.bubble_ratio == exactly(p - 1)
    assert alone.bubble_fraction == exactly((p - 1) / p)


@given(p=st.integers(1, 5), groups=st.integers(1, 4), v=st.integers(2, 4), **beats)
def test_interleaving_divides_the_bubble_by_v(p, groups, v, f, i, w):
    """(p-1)/(v m) of the ideal time, (p-1)/(v m + p-1) of the total."""
    m = groups * p
    found = figures(interleaved(p, m, v), Times.even(p, tf=f, ti=i, tw=w))
    assert found.bubble_ratio == exactly((p - 1) / (v * m))
    assert found.bubble_fraction == exactly((p - 1) / (v * m + p - 1))


@given(p=st.integers(1, 6), more=st.integers(0, 6), **beats)
def test_the_zero_bubble_formulas(p, more, f, i, w):
    """With W no longer than F or I: (p-1)(F+I-W) for ZB-H1, (p-1)(F+I-2W) inside ZB-H2."""
    w = min(f, i, w)
    times = Times.even(p, tf=f, ti=i, tw=w)
    m = p + more
    assert figures(zb_h1(p, m), times).makespan == exactly(m * (f + i + w) + (p - 1) * (f + i - w))
    m = 2 * p - 1 + more
    spans = figures(zb_h2(p, m), times).spans
    assert max(spans) == exactly(m * (f + i + w) + (p - 1) * (f + i - 2 * w))


@given(p=st.integers(1, 6), m=st.integers(1, 6), **beats)
def test_zb_h1_with_few_microbatches(p, m, f, i, w):
    """With m <= p and W no longer than F or I a step takes (m+p-1)(F+I) + W."""
    m, w = min(m, p), min(f, i, w)
    found = figures(zb_h1(p, m), Times.even(p, tf=f, ti=i, tw=w))
    assert found.makespan == exactly((m + p - 1) * (f + i) + w)


def test_interleavings_second_warmup_forward_hides_messages():
    """Only one microbatch's 14 hops there and back are lost; with one forward a rank, many more."""
    p, v, hop = 4, 2, 0.1
    for m in (8, 16, 32):
        lean = Order(tuple(map(_one_a_rank, range(p), interleaved(p, m, v).ranks)))
        longer = [
            figures(order, Times.even(p, tcomm=hop)).makespan - figures(order).makespan
            for order in (interleaved(p, m, v), lean)
        ]
        assert figures(lean).makespan == exactly(figures(interleaved(p, m, v)).makespan)
        assert longer[0] == exactly(2 * (v * p - 1) * hop)
        assert longer[1] > 2 * longer[0]


def _one_a_rank(rank: int, order: tuple[Task, ...], p: int = 4, v: int = 2) -> tuple[Task, ...]:
    """The same tasks with a warm-up of one forward for each rank below, as 1F1B has it."""
    forwards = [task for task in order if task.op is Op.F]
    backwards = [task for task in order if task.op is Op.B]
    warmup = p - 1 - rank + (v - 1) * p
    pairs = zip(forwards[warmup:], backwards, strict=False)
    steady = [task for pair in pairs for task in pair]
    return (*forwards[:warmup], *steady, *backwards[len(backwards) - warmup :])


# ---------------------------------------------------------------------------- the papers


@each_rate
@pytest.mark.parametrize(
    ("schedule", "column"),
    [(one_f_one_b, "r_1F1B"), (zb_h1, "r_ZB_H1"), (zb_h1, "r_ZB_1p"), (zb_h2, "r_ZB_H2")],
)
def test_the_zero_bubble_papers_rates_to_four_decimals(row, schedule, column):
    """Table 5 follows from the times of Table 9."""
    found = figures(schedule(row["p"], row["m"]), profiled(row))
    assert round(found.bubble_rate, 4) == exactly(row[column], abs=1e-9)


@each_rate
def test_the_zero_bubble_papers_rate_of_interleaving(row):
    """Within 0.004: how long its chunks and its wrap-around link take is not printed."""
    order = interleaved(row["p"], row["m"], row["chunks_v"])
    assert figures(order, profiled(row)).bubble_rate == exactly(row["r_1F1B_I"], abs=0.004)


@each_small
def test_samples_a_second_where_microbatches_are_few(row):
    """Table 12 from the times of Table 9: from 1 % below what was measured to 10 % above."""
    p, m = row["p"], row["m"]
    times = profiled(next(r for r in RATES if r["model"] == row["model"]))
    for schedule, column in ((one_f_one_b, "samples_1F1B"), (zb_h1, "samples_ZB2p")):
        seconds = figures(schedule(p, m), times).makespan / 1e3
        predicted = m * row["microbatch"] / p / seconds
        assert 0.99 < predicted / row[column] < 1.1


@pytest.mark.parametrize("row", [r for r in table("gpipe_table2").rows if r["M"] == 32])
def test_gpipes_throughput_is_near_the_formula(row):
    """32 microbatches on K TPUs: K M/(M+K-1) times one, up to 8 % more than was measured."""
    k, m = row["K"], row["M"]
    found = figures(gpipe(k, m))
    speedup = sum(found.work) / found.makespan  # over one microbatch at a time, rank by rank
    assert speedup == exactly(k * m / (m + k - 1))
    assert 1 < speedup / row["transformer48"] < 1.08

"""The bubble of a trace, its critical path, and lateness by dependency."""

from __future__ import annotations

import time

import pytest
from idle_traces import BEAT, ran, span, trace

from parallel_core.analysis.bubble import bubble, in_flight
from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.idle import idle
from parallel_core.analysis.logical import latest, logical
from parallel_core.mesh import Mesh
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.figures import figures_of
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.program import Instr, Op, Program
from parallel_core.simulate import simulate


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_bubble_of_a_trace_is_the_schedules(name):
    """What is counted from spans equals what the order's figures say, ratio by ratio."""
    virtual = SCHEDULES[name].virtual
    try:
        order = SCHEDULES[name].of(Job(p=4, m=8, v=virtual[0] if virtual else 2))
    except ValueError as error:
        pytest.skip(str(error))
    times = Times.even(4, tcomm=0.5, slow={1: 1.25})
    run = simulate(lower(order), PipelineCost.of(order, times))
    want, have = figures_of(run, order), bubble(run)
    for ratio in ("bubble_ratio", "bubble_fraction", "internal_fraction", "bubble_rate"):
        assert getattr(have, ratio) == pytest.approx(getattr(want, ratio), abs=1e-9), ratio
    assert [r.in_flight for r in have.ranks] == want.peak_in_flight
    assert [r.idle_ns / BEAT for r in have.ranks] == pytest.approx(want.idle)
    assert sum(have.causes.values()) == sum(r.idle_ns for r in have.ranks)


def test_peaks_in_flight_and_in_bytes_on_paper():
    """1F1B holds p - r microbatches, GPipe all; memory is what the spans say."""
    assert in_flight(ran("1f1b", 4, 8)) == (4, 3, 2, 1)
    assert in_flight(ran("gpipe", 4, 8)) == (8, 8, 8, 8)
    assert in_flight(ran("interleaved", 4, 8, v=2))[0] == 5.5
    assert [r.memory for r in bubble(ran("1f1b", 4, 8)).ranks] == [4, 3, 2, 1]
    assert bubble(ran("gpipe", 4, 8)).bubble_ratio == pytest.approx(3 / 8)
    assert bubble(ran("gpipe", 4, 8)).bubble_fraction == pytest.approx(3 / 11)


def test_the_critical_path_of_a_pipeline_goes_through_the_slow_stage():
    """F through stages 0, 1, 2, then most of its time on the slow one, and home again."""
    path = critical_path(ran("1f1b", 4, 8, slow={2: 2}))
    ranks = [p.span.rank for p in path.pieces if p.span]
    assert ranks[:3] == [0, 1, 2] and ranks[-3:] == [2, 1, 0]
    on = [sum(p.ns for p in path.pieces if p.span and p.span.rank == r) for r in range(4)]
    assert on[2] > 0.8 * sum(on)
    assert set(path.shares) == {"F", "B"}
    apart = critical_path(ran("naive", 2, 1, tcomm=0.5))
    assert [(p.span.rank, p.span.op, p.ns / BEAT) for p in apart.pieces if p.span] == [
        (0, "F", 1), (1, "recv", 0.5), (1, "F", 1), (1, "B", 2), (0, "recv", 0.5), (0, "B", 2),
    ]  # fmt: skip


def test_lateness_by_dependency_step():
    """Two ranks do the same; the one that is 3 beats behind is late by 3, its message too."""
    meet = {"peers": (0, 1), "axis": "dp", "seq": 0}
    run = trace(
        span(0, "F", 0, 1),
        span(0, "B", 1, 2, index=1, deps=(0,)),
        span(0, "all_reduce", 2, 6, index=2, deps=(1,), **meet),
        span(1, "F", 0, 4),
        span(1, "B", 4, 5, index=1, deps=(0,)),
        span(1, "all_reduce", 5, 6, index=2, deps=(1,), **meet),
    )
    found = {(one.span.rank, one.span.op): one for one in logical(run)}
    assert [found[0, op].level for op in ("F", "B", "all_reduce")] == [0, 1, 2]
    assert found[1, "B"].late_ns == 3 * BEAT and found[0, "B"].late_ns == 0
    # The collective began to move when the last had come: neither end is late in it.
    assert found[1, "all_reduce"].late_ns == found[0, "all_reduce"].late_ns == 0
    assert latest(logical(run)) == {0: 0, 1: 3 * BEAT}


def test_a_receive_stands_after_its_send():
    """Each hop of a microbatch is later in steps, and early receives are not early."""
    found = logical(ran("gpipe", 3, 2))
    level = {(one.span.rank, one.span.op, one.span.mb): one.level for one in found}
    for rank in (0, 1):
        assert level[rank, "F", 0] < level[rank + 1, "recv", 0]
        assert level[rank + 1, "F", 0] > level[rank, "F", 0]
    assert max(one.late_ns for one in found if one.span.op == "F") <= 2 * BEAT


def test_a_hundred_thousand_spans_take_seconds_at_most():
    """100,000 spans within 2 s of this thread's time, sentences included."""
    run = ran("interleaved", 16, 272, v=4, tcomm=0.3, slow={3: 1.7})
    assert len(run.spans) > 100_000
    run.by_rank  # noqa: B018  (cached: sorting is not what is timed)
    start = time.thread_time()
    found = idle(run)
    assert all([slot.sentence for slot in found])
    assert time.thread_time() - start < 2
    blank = Program(Mesh((("pp", 1),)), ((Instr(op=Op.F),),), ((),), ((),))
    assert idle(simulate(blank, PipelineCost(Times.even(1)))) == ()

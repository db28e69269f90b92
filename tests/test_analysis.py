"""What a trace tells: path, exposure, comparison, hangs; computable on paper."""

from __future__ import annotations

import pytest
from analysis_traces import GROUP, LATE, MS, reduce, span, trace

from parallel_core.analysis.compare import compare, medians
from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.exposed import exposed, without_warmup
from parallel_core.analysis.stuck import POSTED, STARTED, stuck
from parallel_core.analysis.waits import totals, waits
from parallel_core.cases import program_of
from parallel_core.plan import Plan
from parallel_core.quantities import time_text
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.trace import Trace
from parallel_core.views.tables import (
    compare_rows,
    median_rows,
    path_rows,
    span_rows,
    total_rows,
    use_rows,
    wait_rows,
)


def test_the_critical_path_leaves_the_waiting_rank_for_the_one_it_waited_for():
    """Rank 1's forward, the wire, rank 0's longer optimizer: 10 + 1 + 2 of 13 ms."""
    path = critical_path(LATE)
    pieces = [(p.span.rank, p.span.op, p.ns / MS) for p in path.pieces if p.span]
    assert pieces == [(1, "F", 10), (0, "all_reduce", 1), (0, "O", 2)]
    assert path.shares == pytest.approx({"F": 10 / 13, "O": 2 / 13, "all_reduce": 1 / 13})
    assert "it changes rank once" in path.account


def test_time_that_nothing_explains_is_a_gap_of_the_path():
    """Between F and B nothing was recorded; the path says so and does not invent a cause."""
    path = critical_path(trace(span(0, "F", 0, 2), span(0, "B", 5, 6, index=1)))
    assert [(p.span and p.span.op, p.ns / MS) for p in path.pieces] == [
        ("F", 2),
        (None, 3),
        ("B", 1),
    ]
    assert path.shares["nothing recorded"] == 0.5
    assert critical_path(trace()).pieces == ()


def test_exposed_and_hidden_on_paper():
    """Communication 2-6 under backward 0-5: 3 ms hidden, 1 exposed; a WAIT is no compute."""
    run = trace(
        span(0, "B", 0, 5), reduce(0, 2, 6), span(0, "wait", 5, 6), span(0, "O", 7, 10), ranks=1
    )
    (use,) = exposed(run).ranks
    assert [n / MS for n in (use.window_ns, use.compute_ns, use.comm_ns)] == [10, 8, 4]
    assert [n / MS for n in (use.hidden_ns, use.exposed_ns, use.idle_ns)] == [3, 1, 1]
    assert use.utilisation == 0.8


def test_a_message_inside_a_compute_op_is_exposed():
    """A layer that stands still for its own all-reduce does not compute meanwhile."""
    run = trace(span(0, "F", 0, 10), reduce(0, 4, 6, lane="compute"), ranks=1)
    (use,) = exposed(run).ranks
    assert (use.compute_ns, use.exposed_ns, use.hidden_ns) == (8 * MS, 2 * MS, 0)


@pytest.mark.parametrize(("p", "m"), [(2, 1), (4, 8), (3, 5)])
def test_the_bubble_of_a_pipeline_with_free_messages(p, m):
    """(p-1)/(m+p-1) of the total, (p-1)/m of the ideal time; none of it inside a rank."""
    run = trace(
        *(span(s, "F", s + i, s + i + 1, mb=i) for s in range(p) for i in range(m)), ranks=p
    )
    use = exposed(run)
    assert use.bubble_of_total == pytest.approx((p - 1) / (m + p - 1))
    assert use.bubble_of_ideal == pytest.approx((p - 1) / m)
    assert all(r.internal_idle_ns == 0 for r in use.ranks)


def test_warmup_steps_are_left_out_but_never_all():
    """The first steps go, the last stays."""
    run = trace(*(span(0, "F", 10 * i, 10 * i + 1 + i, step=i) for i in range(3)), ranks=1)
    assert without_warmup(run, 1).steps == (1, 2)
    assert without_warmup(run, 9).steps == (2,)
    assert exposed(run, warmup=2).ranks[0].compute_ns == 3 * MS


def test_comparison_names_what_got_slower():
    """Medians over steps, aligned by rank, op, where and microbatch; one slow step is ignored."""

    def run(times: list[int], op: str) -> Trace:
        spans = [
            span(0, "F", 100 * i, 100 * i + t, where="layer0", mb=0, step=i)
            for i, t in enumerate(times)
        ]
        return trace(*spans, span(0, op, 300, 301, step=2, memory=len(op)), ranks=1)

    both = compare(run([10, 10, 90], "O"), run([20, 20, 20], "add"))
    assert [(r.label, r.ratio) for r in both.rows] == [
        ("rank 0 F layer0 mb0", 2.0),
        ("rank 0 add", None),
        ("rank 0 O", None),
    ]
    assert [r.label for r in both.slower] == ["rank 0 F layer0 mb0"]
    assert (both.before.peak_bytes, both.after.peak_bytes, both.after.steps) == (1, 3, 3)
    assert "most was lost in rank 0 F layer0 mb0, +10 ms" in both.account
    assert medians(run([10, 10, 90], "O"))[0, "F", "layer0", 0].count == 3


def test_a_hang_blames_the_rank_that_posted_least():
    """Two wait in number 5, the third never posted it."""
    group = (0, 1, 2)
    ok = [reduce(r, 0, 1, peers=group, seq=4) for r in group]
    hung = [reduce(r, 2, 9, peers=group, seq=5, where=w) for r, w in ((0, POSTED), (1, STARTED))]
    (hang,) = stuck(trace(*ok, *hung, ranks=3))
    assert (hang.seq, hang.waiting, hang.culprits, hang.silent) == (5, (0, 1), (2,), ())
    assert hang.sentence == (
        "ranks 0, 1 stand in all_reduce number 5 of dp; rank 2 never posted it: look there first"
    )
    assert stuck(trace(*ok, ranks=3)) == ()


def test_a_hang_that_follows_from_another_comes_second():
    """Rank 0 waits for rank 1, but rank 1 waits for rank 2: the root is rank 2."""
    recv = span(0, "recv", 0, 9, peers=(1, 0), seq=0, where=POSTED)
    waiting = reduce(1, 1, 9, peers=(1, 2), where=POSTED)
    alive = span(2, "F", 0, 1)
    first, second = stuck(trace(recv, waiting, alive, ranks=3))
    assert (first.culprits, second.culprits) == ((2,), (1,))


def test_a_hang_without_a_culprit_says_so():
    """All posted, or two operations under one number, or no record of the missing rank."""
    all_posted = [reduce(r, 0, 9, where=STARTED) for r in (0, 1)]
    assert "look at the link" in stuck(trace(*all_posted))[0].sentence
    mixed = [
        all_posted[0],
        span(1, "all_gather", 0, 9, peers=GROUP, axis="dp", seq=0, where=POSTED),
    ]
    assert "they disagree: rank 0 posted all_reduce, rank 1 posted all_gather" in (
        stuck(trace(*mixed))[0].sentence
    )
    assert stuck(trace(all_posted[0]))[0].silent == (1,)


@pytest.mark.parametrize(("method", "microbatches"), [("naive", 1), ("bucketed", 2)])
def test_in_a_simulated_step_every_nanosecond_has_a_recorded_cause(method, microbatches):
    """The critical path of a data-parallel program explains all of its makespan."""
    plan = Plan.of(dp=3, dp_method=method, microbatches=microbatches, global_batch=6, layers=2)
    run = simulate(program_of(plan), model_cost(plan))
    path = critical_path(run)
    assert path.length == run.makespan > 0


def test_tables_hold_what_the_analysis_found():
    """One dict a row, units in the column names."""
    assert span_rows(LATE, limit=1)[0] | {"duration (ms)": 4.0} == span_rows(LATE)[0]
    assert wait_rows(waits(LATE))[0]["waited for"] == "rank 1"
    assert total_rows(totals(waits(LATE)))[1]["others waited for it (ms)"] == 6.0
    assert use_rows(exposed(LATE))[0]["exposed (ms)"] == 7.0
    assert median_rows(LATE)[0]["median (ms)"] == 10.0
    assert compare_rows(compare(LATE, LATE))[0]["ratio"] == 1.0
    assert [row["start (ms)"] for row in path_rows(critical_path(LATE), LATE.start)] == [0, 10, 11]


def test_durations_read_well():
    assert [time_text(ns) for ns in (7, 1500, 3.1 * MS, 2e9)] == [
        "7 ns",
        "1.50 µs",
        "3.10 ms",
        "2 s",
    ]

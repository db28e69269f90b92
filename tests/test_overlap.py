"""What a backward can hide: the formula, the simulator and the real run tell the same story."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from parallel_core.cases import program_of
from parallel_core.cost import Link
from parallel_core.data.bucketed import buckets
from parallel_core.data.overlap import (
    Overlap,
    exposed_equal,
    exposed_uneven,
    fitted,
    ladder,
    messages_a_step,
    overlap,
)
from parallel_core.live import run
from parallel_core.plan import Plan, PlanError
from parallel_core.program import Lane, Op
from parallel_core.replay import model_cost
from parallel_core.report import predict
from parallel_core.simulate import simulate
from parallel_core.trace import Kind
from parallel_core.views.buckets import account, bucket_lanes, uncovered
from parallel_core.views.exposure import Dot, exposure_curve, use
from parallel_core.views.marks import typical_step
from parallel_core.views.race import outcome, race

SMALL = {"layers": 2, "hidden": 32, "heads": 2, "seq": 32, "global_batch": 8}
plans = some.builds(
    Plan.of,
    dp=some.sampled_from([2, 4]),
    layers=some.integers(1, 5),
    hidden=some.sampled_from([32, 64]),
    microbatches=some.sampled_from([1, 2]),
    bucket_mb=some.sampled_from([0.001, 0.05, 0.2, 1.0, 100.0]),
    tied=some.booleans(),
    seq=some.just(32),
)
links = some.builds(Link, alpha=some.floats(0, 1e-3), beta=some.floats(1e7, 1e10))


# -- the formula -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t_c", "k", "exposed"), [(60, 6, 10), (60, 1, 60), (150, 5, 70), (0, 3, 0)]
)
def test_the_formula_by_hand(t_c, k, exposed):
    """100 ms of backward: six buckets of 60 ms leave 10 exposed, one leaves all 60."""
    assert exposed_equal(100, t_c, k) == pytest.approx(exposed)


@given(some.floats(0.1, 1e3), some.floats(0, 1e3), some.integers(1, 50))
def test_equal_buckets_are_a_case_of_uneven_ones(t_b, t_c, k):
    """The maximum of two terms is what walking the comm lane gives."""
    lane = [(t_b * j / k, t_c / k) for j in range(1, k + 1)]
    assert exposed_uneven(t_b, lane) == pytest.approx(exposed_equal(t_b, t_c, k), abs=1e-9)


@given(some.floats(0.1, 1e3), some.floats(0.1, 1e3), some.integers(1, 50))
def test_the_last_bucket_never_hides(t_b, t_c, k):
    """However long the backward: at least one bucket's time is exposed, and never more than all."""
    assert t_c / k <= exposed_equal(t_b, t_c, k) <= t_c + 1e-9


def test_no_bucket_is_a_sentence():
    """k=0 names the field and the remedy."""
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        exposed_equal(1, 1, 0)


def test_latency_makes_the_best_number_of_buckets_finite():
    """Without latency more is always better; with it, there is a best number in between."""
    free = Overlap(backward=0.1, wire=0.06, latency=0.0)
    paid = Overlap(backward=0.1, wire=0.06, latency=0.01)
    assert free.best(20) == 20
    assert 1 < paid.best(20) < 20
    assert paid.exposed(20) > paid.exposed(paid.best(20)) < paid.exposed(1)


@given(some.floats(0, 1e-2), some.floats(1e-3, 1), some.lists(some.integers(1, 40), min_size=2))
def test_latency_and_wire_are_read_off_runs(latency, wire, counts):
    """Runs that obey K L + W give back L and W; runs of one K alone give nothing."""
    law = fitted(0.1, [(k, k * latency + wire) for k in counts])
    if len(set(counts)) == 1:
        assert law is None
    else:
        assert law is not None
        assert law.latency == pytest.approx(latency, abs=1e-6)
        assert law.wire == pytest.approx(wire, rel=1e-3, abs=1e-5)


# -- against the simulator -------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(plans, links)
def test_the_simulator_exposes_what_the_formula_says(plan, link):
    """Buckets of any size, the loss before them: simulated lanes end where the walk ends."""
    cost, program = model_cost(plan, link=link), program_of(plan)
    step = simulate(program, cost)
    start = min(
        s.t_start for s in step.by_rank[0] if s.op == Op.B and s.mb == plan.microbatches - 1
    )
    t_b = max(s.t_done for s in step.by_rank[0] if s.op == Op.B) - start
    lane = []
    for span in (s for s in step.by_rank[0] if s.lane == Lane.COMM):
        instr = program.ranks[0][span.index]
        ready = max(s.t_done for s in step.by_rank[0] if s.index in span.deps) - start
        lane.append((ready / 1e9, cost.seconds(0, instr)))
    expected = exposed_uneven(t_b / 1e9, lane)
    assert uncovered(step, 0) / 1e9 == pytest.approx(expected, abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(plans, links)
def test_naive_exposes_all_of_it(plan, link):
    """Every message of the naive method stands after the backward."""
    plan = plan.but(dp_method="naive")
    step = simulate(program_of(plan), model_cost(plan, link=link))
    assert uncovered(step, 0) / 1e9 >= 0.999 * overlap(plan, model_cost(plan), link).comm(
        messages_a_step(plan)
    )
    assert use(step).share == pytest.approx(1.0)


def test_the_law_gives_its_link_back():
    """overlap -> link -> overlap is the same law."""
    plan, link = Plan.of(dp=4), Link(alpha=2e-4, beta=3e8)
    law = overlap(plan, model_cost(plan), link)
    assert law.link(plan).alpha == pytest.approx(link.alpha)
    assert law.link(plan).beta == pytest.approx(link.beta)


@settings(max_examples=20, deadline=None)
@given(plans)
def test_the_ladder_goes_from_a_bucket_a_unit_to_one(plan):
    """Each rung cuts differently, and every unit is in exactly one bucket."""
    rungs = [buckets(each) for each in ladder(plan)]
    counts = [len(rung) for rung in rungs]
    assert counts == sorted(set(counts), reverse=True)
    assert counts[-1] == 1
    for rung in rungs:
        assert sorted(u for bucket in rung for u in bucket) == list(range(plan.model.layers + 2))


# -- a real run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs():
    """The two methods on two real ranks; the pool is this process's own."""
    flat = {**SMALL, "dp": 2, "steps": 3, "quiet": True}
    return {
        "naive": run(**flat, dp_method="naive"),
        "bucketed": run(**flat, bucket_mb=0.05, parity=False),
    }


@pytest.mark.live
def test_run_returns_what_happened(runs):
    """Losses, clocks, parity and bytes, each from the run; the model beside them."""
    naive, bucketed = runs["naive"], runs["bucketed"]
    assert len(naive.losses) == 3 and naive.losses[-1] < naive.losses[0]
    assert (naive.trace.kind, naive.own.kind) == (Kind.MEASURED, Kind.REPLAYED)
    assert naive.model.kind is Kind.MODELLED
    assert naive.parity is not None and naive.parity < 1e-5
    assert bucketed.parity is None
    assert naive.losses == pytest.approx(bucketed.losses, abs=1e-5)
    assert "iframe" in naive._repr_mimebundle_()["text/html"]
    assert "dp=2 (naive): 3 steps" in repr(naive)


@pytest.mark.live
def test_however_it_is_cut_the_bytes_are_the_same(runs):
    """Two ranks: each sends one gradient's bytes a step, in two parts, whatever the method."""
    ledger = runs["naive"].report["ledger"]
    gradient = ledger["memory"]["measured"]["grads"][0]
    assert runs["naive"].wire_bytes == runs["bucketed"].wire_bytes == 3 * 2 * gradient


@pytest.mark.live
def test_the_real_naive_method_hides_nothing_and_the_bucketed_some(runs):
    """No naive message runs beside compute; the first bucket is handed over under the backward.

    How much then hides by the wall clock is up to the cores, so that is claimed of the replay.
    """
    for own in (True, False):
        assert runs["naive"].use(own=own).share == pytest.approx(1.0)
    assert runs["bucketed"].use().share < 1.0
    trace = runs["bucketed"].trace
    row = trace.only(typical_step(trace)).by_rank[0]
    end = max(s.t_done for s in row if s.op == Op.B)
    assert all(s.t_post < end for s in row if s.label == "all_reduce bucket0")


@pytest.mark.live
def test_figures_of_a_run_are_drawn_from_its_spans(runs):
    """Lanes, race and curve carry the badge, and their bars the run's own times."""
    naive, bucketed = runs["naive"], runs["bucketed"]
    figure = bucket_lanes(bucketed.trace, model=bucketed.model)
    words = " ".join(note.text.replace("<br>", " ") for note in figure.layout.annotations)
    assert "measured: gloo, 2 ranks" in words and "outlines: modelled" in words
    step = bucketed.trace.only(typical_step(bucketed.trace))
    sent = [s for s in step.by_rank[0] if s.lane == Lane.COMM and s.where != "loss"]
    assert list(figure.layout.yaxis.ticktext) == ["compute", *(s.where for s in sent)]
    work = sum(s.duration for s in step.by_rank[0] if s.op in ("F", "B", "O")) / 1e6
    bars = [bar for bar in figure.data if bar.type == "bar" and bar.name in "FIWO"]
    assert sum(sum(bar.x) for bar in bars) == pytest.approx(work)
    assert account(bucketed.trace).count("bucket") >= len(sent)
    result = outcome({"naive": naive.own, "bucketed": bucketed.own})
    assert result.times[result.first] <= result.times[result.second]
    flags = [
        n.text for n in race({"naive": naive.own, "bucketed": bucketed.own}).layout.annotations
    ]
    assert sum("first" in flag for flag in flags) == 1


def test_modelled_boxes_never_pass_for_measured_ones():
    """The same step, modelled: pale fill, no solid edge, dashed outlines."""
    modelled = predict(Plan.of(**SMALL, dp=2))
    claimed = replace(modelled, provenance=replace(modelled.provenance, kind=Kind.MEASURED))
    fills = []
    for trace in (modelled, claimed):
        figure = bucket_lanes(trace)
        bars = [bar for bar in figure.data if bar.type == "bar"]
        dashed = [line for line in figure.data if line.type == "scatter" and line.line.dash]
        assert all(bar.marker.line.width == (0 if trace is modelled else 1) for bar in bars)
        assert len(dashed) == (1 if trace is modelled else 0)
        fills.append({bar.name: bar.marker.color for bar in bars})
    assert all(fills[0][look] != fills[1][look] for look in ("F", "I", "W", "O", "collective"))


def test_dots_of_each_kind_look_different():
    """Hollow modelled, filled measured without an edge, filled replayed with one."""
    law = Overlap(backward=0.1, wire=0.01, latency=0.001)
    dots = [Dot(messages=3, exposed=2.0, kind=kind) for kind in Kind if kind is not Kind.QUOTED]
    figure = exposure_curve(law, dots, badges=["modelled: by hand"])
    found = {trace.name: trace.marker for trace in figure.data if trace.mode == "markers+text"}
    assert found["modelled"].symbol[0].endswith("-open")
    assert not found["measured"].symbol[0].endswith("-open")
    assert (found["measured"].line.width, found["replayed"].line.width) == (0, 1)
    curves = [trace for trace in figure.data if trace.mode == "lines"]
    assert all(curve.line.dash == "dash" for curve in curves)
    assert curves[1].y[0] == pytest.approx(1e3 * law.exposed(1))


def test_what_cannot_run_is_one_sentence_before_anything_starts():
    """A bad plan raises before a process exists."""
    with pytest.raises(PlanError, match="nearest value that works is 15"):
        run(dp=3)


@pytest.mark.live
def test_the_owner_loads_no_torch_and_leaves_nothing_behind():
    """A script that runs and ends: no torch in it, and its supervisor is gone with it."""
    code = (
        "import sys\n"
        "from parallel_core import live\n"
        "four = live.run(dp=2, steps=1, layers=1, hidden=16, heads=2, seq=16, quiet=True)\n"
        "print('torch' in sys.modules, live.pool().supervisor_pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    loaded, pid = done.stdout.split()
    assert loaded == "False", done.stderr
    assert subprocess.run(["kill", "-0", pid], capture_output=True).returncode != 0

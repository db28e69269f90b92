"""The page on data parallelism: predict, run, and the run beside the model and the formula."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from statistics import fmean

import pages
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import button, charts, fragments, headings, layers, script, until, words
from screens import data_parallel, dp_runs, results

from parallel_core.cost import Link
from parallel_core.data.parameter_server import Staleness, order_of, staleness
from parallel_core.plan import Plan
from parallel_core.report import predict
from parallel_core.trace import Kind
from parallel_core.views.race import Contest, outcome, race
from parallel_core.views.staleness import account, histogram, shares

open_page = partial(pages.open_page, "data_parallel")
no_run_is_left = pages.no_run_is_left  # the fixture, for this file
SMALL = {"dp": 2, "layers": 2, "hidden": 32, "heads": 2, "seq": 32, "steps": 3}


def test_the_answer_stays_hidden_until_the_reader_has_guessed():
    """Before: how the gradients are cut, and two times. After: figures, and how far off."""
    at = open_page(**SMALL)
    assert "bucket" in words(at) and not at.get("plotly_chart") and not headings(at)
    at.number_input(key="data_parallel.number").set_value(10.0).run()
    button(at, "Lock my guess").click().run()
    assert not at.exception
    assert headings(at) == ["One step", "How many buckets?"]
    assert "You said 10 %; it is" in words(at)
    assert layers(at)["trace"]["kind"] == Kind.MODELLED
    assert len(charts(at)) == 2


def test_a_single_bucket_hides_nothing_and_the_page_says_why():
    """The first failure a reader can reach: one press, 100 % exposed by the simulator too."""
    at = open_page(**SMALL)
    button(at, "Skip").click().run()
    button(at, "One bucket: nothing hides").click().run()
    assert at.query_params["bucket_mb"] in (["4096"], ["4096.0"], "4096", "4096.0")
    assert "**Answer:** 100 %" in words(at)
    assert "nothing hides" in at.warning[0].value


def test_tiny_layers_are_all_latency():
    """The second failure: a bucket a unit of a deep, thin model, most of it latency."""
    at = open_page()
    button(at, "Skip").click().run()
    button(at, "Tiny layers, a bucket each: all latency").click().run()
    assert not at.exception
    assert "18 buckets" in words(at)
    share = int(re.match(r"(\d+)% of the communication is latency", at.warning[0].value)[1])
    assert share > 50


def test_one_rank_has_nothing_to_sum():
    """dp=1 is told in one sentence, with what to do."""
    at = open_page(dp=1)
    assert not at.exception
    assert "take dp=2 or more" in at.info[0].value


def test_a_step_too_long_to_draw_is_told():
    """Thousands of microbatches are refused before they are laid out."""
    at = open_page(dp=2, microbatches=2048, global_batch=4096, seq=8)
    assert not at.exception
    assert "Take fewer microbatches or layers" in at.info[0].value


@pytest.mark.live
def test_a_race_runs_both_methods_and_shows_them_on_one_axis():
    """One press, two real runs: dots on the curve, the proof, the race, the ledgers."""
    at = open_page(**SMALL)
    button(at, "Race naive against bucketed").click().run()
    at = until(at, lambda page: "The race" in headings(page))
    shown = layers(at)
    kinds = {name: layer["kind"] for name, layer in shown.items()}
    assert kinds == {"trace": Kind.MEASURED, "own": Kind.REPLAYED, "model": Kind.MODELLED}
    dots = [
        trace
        for figure in charts(at)
        for trace in figure["data"]
        if trace.get("mode") == "markers+text" and trace["name"] == Kind.REPLAYED
    ]
    assert [label for trace in dots for label in trace["text"]] == ["#1", "#2"]
    page = fragments(at)
    assert "max |parallel" in page
    assert "by the wall clock" in page or "Too noisy to call" in page
    assert "Both sent the same bytes a step" in page
    assert "They agree to the byte" in words(at)
    assert any("shardlab run --dp 2" in code.value for code in at.code)

    at.radio(key="clock").set_value("wall").run()
    assert not at.exception
    badges = json.dumps(charts(at))
    assert "filled: measured" in badges and "filled: replayed" not in badges

    job = at.query_params["job"]
    other = open_page(**SMALL, job=job if isinstance(job, str) else job[0])
    assert not other.exception
    assert layers(other)["trace"]["kind"] == Kind.MEASURED  # a link to a run opens on the run

    button(at, "Forget my runs").click().run()
    assert "The race" not in headings(at) and "job" not in at.query_params
    assert '"#1"' not in json.dumps(charts(at))


def contest(bandwidths):
    """A naive and a bucketed run, modelled; links of these bandwidths were fitted to each alone."""
    plans = {name: Plan.of(dp=2, dp_method=name) for name in ("naive", "bucketed")}
    steps = {name: predict(plan) for name, plan in plans.items()}
    alone = {name: Link(1e-4, beta) for name, beta in zip(plans, bandwidths, strict=True)}
    return Contest(wall=steps, own=steps, link=Link(1e-4, 1e9), alone=alone)


def test_a_race_over_links_too_far_apart_is_not_called():
    """Up to a factor 3 there is a winner, on both clocks, over a link that is told."""
    near, far = contest((1e9, 2.9e9)), contest((3.1e9, 1e9))
    assert near.called and near.headline.startswith("Bucketed: ")
    assert "on own devices" in near.headline and "by the wall clock" in near.headline
    assert "beta 1 GB/s" in near.words
    assert not far.called and far.headline == "Too noisy to call" and "factor 3.1" in far.words
    flags = [
        [note.text for note in race(each.own, called=each.called).layout.annotations]
        for each in (near, far)
    ]
    assert [sum(", first" in text for text in texts) for texts in flags] == [1, 0]


def test_a_lead_within_the_steps_of_one_run_is_not_called():
    """Steps of one run that differ by more than the two runs do leave no winner."""
    calm = contest((1e9, 1e9))
    lead = outcome(calm.own).lead
    for jitter, called in ((0.5 * lead, True), (1.5 * lead, False)):
        own = {
            name: in_steps(trace, [0, 0, round(jitter * 1e6), 0])
            for name, trace in calm.own.items()
        }
        both = replace(calm, own=own)
        assert both.noise == pytest.approx(jitter, abs=1e-3) and both.called is called
        assert both.headline.startswith("Bucketed: " if called else "Too noisy to call")
        assert ("so that is no result" in both.words) is not called


def in_steps(trace, late):
    """The one step of `trace` again and again, each ending so many nanoseconds late."""
    length, spans = trace.makespan, []
    for step, more in enumerate(late):
        for s in trace.spans:
            at = step * 2 * length
            done = s.t_done + (more if s.t_done == trace.start + length else 0)
            moved = {"t_post": s.t_post + at, "t_start": s.t_start + at, "t_done": done + at}
            spans.append(replace(s, step=step, **moved))
    return replace(trace, spans=tuple(spans))


def test_a_single_bad_rank_turns_the_ledger_red():
    """The fullest rank agrees, another does not; and an operation that nobody predicted counts."""
    predicted, measured = {"params": [8, 8]}, {"params": [8, 4]}
    (state,) = results._state({"predicted": predicted, "measured": measured})
    assert (state.predicted, state.measured, state.equal) == (8, 8, False)
    op = {"messages": [1, 1], "payload_bytes": [4, 4], "wire_bytes": 8}
    sides = {"predicted": {"dp": {"all_reduce": op}}, "measured": {"dp": {"all_reduce": op}}}
    assert [row.equal for row in results._wire(sides)] == [True]
    sides["measured"] = {"dp": {"all_reduce": op, "broadcast": op}}
    assert [row.equal for row in results._wire(sides)] == [True, False]
    sides["measured"] = {"dp": {"all_reduce": {**op, "payload_bytes": [2, 6]}}}
    assert [row.equal for row in results._wire(sides)] == [False]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_every_element_type_gets_a_verdict(dtype):
    """What rounding explains is said; what it does not, a NaN too, is an error that names it."""
    counted = ["loss", "gradient norm", "gradients"]
    for error, alarms in ((1e-12, 0), (0.5, 1), (float("nan"), 1)):
        found = {
            "errors": {"loss": error, "gradient norm": 1e-12, "gradients": 1e-12},
            **{"counted": counted, "tensors": 9, "steps": 3},
            **{"max_rel_error": error, "max_abs_error": 1e-9},
        }
        at = script("results", f"nan = float('nan')\nresults.parity({found!r}, {dtype!r})").run()
        assert not at.exception and len(at.error) == alarms, (error, at.error)
        assert all("the loss of the first 3 steps" in said.value for said in at.error)
        page = fragments(at)
        assert "Rounding explains" in page and "rank 0&#x27;s, after the sum" in page


def test_only_the_way_of_summing_may_differ_between_dots():
    """A run of another model, batch or number of ranks is no dot on this curve."""
    plan = Plan.of(dp=2)
    same = [plan.but(bucket_mb=4.0), plan.but(dp_method="naive")]
    others = [plan.but(dp=4), plan.but(hidden=64), plan.but(microbatches=2)]
    assert all(dp_runs._but_for_the_sum(p) == dp_runs._but_for_the_sum(plan) for p in same)
    assert all(dp_runs._but_for_the_sum(p) != dp_runs._but_for_the_sum(plan) for p in others)


def test_the_presets_are_plans_that_can_be_laid_out():
    """Each preset, taken from the page's defaults, is legal and small enough."""
    for fields in data_parallel.PRESETS.values():
        assert data_parallel._drawable(Plan.of(**{"dp": 4, **fields}))


def stale(*updates):
    """The staleness of (worker, versions old) of two workers, all of it settled."""
    ages = sorted({age for _, age in updates})
    counts = {age: tuple(updates.count((worker, age)) for worker in (0, 1)) for age in ages}
    own = [[age for worker, age in updates if worker == one] for one in (0, 1)]
    return Staleness(
        mean=fmean(age for _, age in updates),
        by_worker=tuple(fmean(each) if each else None for each in own),
        histogram=counts,
        settled=(0, len(updates)),
        total=sum(age for _, age in updates),
    )


@given(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=2, max_size=6), st.integers(20, 60))
def test_a_staleness_histogram_loses_no_update(speeds, count):
    """The shares of each worker sum to one, and their mean is the worker's own."""
    found = staleness(order_of(speeds, count), len(speeds))
    for worker, mean in enumerate(found.by_worker):
        parts = shares(found, worker)
        assert sum(parts.values()) == pytest.approx(1 if mean is not None else 0)
        assert sum(age * share for age, share in parts.items()) == pytest.approx(mean or 0)


def test_measured_staleness_is_filled_and_simulated_is_an_outline():
    """Before a run the bars are the simulated shares; after it the measured ones."""
    simulated, measured = stale((0, 3), (0, 3), (1, 9)), stale((0, 2), (0, 3), (1, 8))
    names = {0: "worker 0", 1: "worker 1, 3 times slower"}
    for ran, want in ((None, [(3,), (9,)]), (measured, [(2, 3), (8,)])):
        figure = histogram(simulated, ran, names=names, badges=["b"])
        bars = [trace for trace in figure.data if trace.type == "bar"]
        assert [bar.x for bar in bars] == want
        outline = next(trace for trace in figure.data if trace.name == "simulated")
        assert {x for x in outline.x if x is not None} == {2.6, 3.4, 8.6, 9.4}
        assert ("measured 2.50" in account(simulated, ran, names)) == (ran is not None)


SERVER = {**SMALL, "dp": 4, "sums": "a server", "parameter_server": "async"}


def test_with_a_server_the_mean_staleness_is_asked_for_and_then_shown():
    """Four workers, one of them slow: the mean is 3 and the straggler's 9, by the simulation."""
    at = open_page(**{**SERVER, "steps": 40}, speeds="1,1,1,3")
    assert not at.exception and not headings(at)
    at.number_input(key="parameter_server.number").set_value(9.0).run()
    button(at, "Lock my guess").click().run()
    assert not at.exception
    mean = float(re.search(r"You said 9 versions; it is ([\d.]+) versions", words(at))[1])
    assert mean == pytest.approx(3, abs=0.1)
    assert headings(at) == ["Workers and server", "How stale", "What it does to the loss"]
    assert re.search(r"worker 3 \(3x\): mean 9\.\d+ simulated", words(at))
    assert layers(at)["trace"]["kind"] == Kind.MODELLED


def test_in_step_nothing_is_stale():
    """A synchronous server applies what was computed on the weights it still has."""
    at = open_page(**{**SERVER, "parameter_server": "sync"})
    button(at, "Skip").click().run()
    assert not at.exception
    assert "**Answer:** 0 versions" in words(at) and "How stale" not in headings(at)


def test_speeds_that_fit_nobody_are_told_at_the_field():
    """One sentence, and a button that mends it."""
    at = open_page(**SERVER, speeds="1,2")
    assert not at.exception and "must name dp=4 numbers" in at.error[0].value
    next(found for found in at.button if found.label.startswith("Use speeds=")).click().run()
    assert not at.exception and not at.error


@pytest.mark.live
def test_in_step_and_out_of_step_run_on_real_workers_and_stand_side_by_side():
    """One press, two real runs with a server: staleness measured, losses on one axis, the proof."""
    at = open_page(**{**SERVER, "dp": 2, "steps": 6, "pace_ms": 10}, speeds="1,3")
    button(at, "Run sync against async").click().run()
    at = until(at, lambda page: "The same run from a terminal:" in words(page))
    kinds = {name: layer["kind"] for name, layer in layers(at).items()}
    assert kinds == {"trace": Kind.MEASURED, "own": Kind.REPLAYED, "model": Kind.MODELLED}
    assert re.search(r"worker 1 \(3x\): mean [\d.]+ simulated, measured \d", words(at))
    assert "Paced compute" in words(at) and "paced compute" in json.dumps(charts(at))
    assert "sync, run #1" in words(at) and "async, run #2" in words(at)
    assert "They agree to the byte" in words(at)
    assert "max |parallel" in fragments(at)

"""A parameter server on real ranks: one process to the last digit, itself to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
from parameter_server_runs import DRESSES, Ran, asked, plan_of, run_all

from parallel_core.check import check
from parallel_core.data.parameter_server import expected_total
from parallel_core.data.server_step import program
from parallel_core.parameter_server_report import view_of
from parallel_core.params import param_specs
from parallel_core.program import Op
from parallel_core.prove import prove

pytestmark = pytest.mark.live

TRAIN = "parallel_core.parameter_server:train"
every_dress = pytest.mark.parametrize("dress", DRESSES)


def balanced(book: dict[str, Any]) -> None:
    assert book["wire"]["predicted"] == book["wire"]["measured"]
    assert book["control"]["predicted"] == book["control"]["measured"]
    assert book["memory"]["predicted"] == book["memory"]["measured"]
    assert book["memory"]["peak_state_bytes"] == book["checks"]["predicted_peak_state_bytes"]
    assert book["activations"]["differences"] == []
    assert book["comm_buffers"]["differences"] == []


@pytest.fixture(scope="module")
def four(pool) -> dict[str, Ran]:
    """Runs of four workers."""
    curves = plan_of("sync", layers=1, lr=0.05)
    runs = {f"sync {name}": asked(plan_of("sync", **dress)) for name, dress in DRESSES.items()}
    runs |= {f"{name} again": one for name, one in runs.items()}
    runs |= {f"async {name}": asked(plan_of("async", **dress)) for name, dress in DRESSES.items()}
    runs["curve sync"] = asked(curves, 12, parity=False)
    runs["curve async"] = asked(curves.but(parameter_server="async"), 12, parity=False)
    return run_all(pool, runs)


@pytest.fixture(scope="module")
def four_again(pool, four) -> dict[str, Ran]:
    """The asynchronous runs in the order they had."""
    names = [f"async {name}" for name in DRESSES]
    orders = {name: four[name].report["replay_order"] for name in names}
    again = {n: asked(four[n].view.plan, replay_order=orders[n], parity=False) for n in names}
    return run_all(pool, again)


SLOW_FIRST, FAST_FIRST = [1, 1, 1, 0, 1, 0, 0, 1], [0, 0, 0, 1, 0, 1, 1, 0]


@pytest.fixture(scope="module")
def two(pool) -> dict[str, Ran]:
    """Runs of two workers, one of them slow."""
    plain = plan_of("async", dp=2, global_batch=4)
    paced = plain.but(speeds="1,4", pace_ms=10)
    return run_all(
        pool,
        {
            "paced, slow first": asked(paced, 4, replay_order=SLOW_FIRST),
            "slow first": asked(plain, 4, replay_order=SLOW_FIRST),
            "fast first": asked(plain, 4, replay_order=FAST_FIRST),
        },
    )


@every_dress
def test_in_step_it_is_one_process_to_the_last_digit_and_itself_to_the_last_bit(dress, four):
    ran = four[f"sync {dress}"]
    assert ran.parity["counted"][-1] == "parameters"
    assert ran.parity["max_rel_error"] <= 1e-10
    assert four[f"sync {dress} again"].report["digest"] == ran.report["digest"]
    assert len(ran.view.trace.spans) == 3 * sum(map(len, program(ran.view.plan).ranks))
    balanced(ran.report["ledger"])


def test_the_server_carries_every_byte(four):
    """In W times the model, out W times the model, a step: everybody else once each way."""
    ran = four["sync llama"]
    size = sum(spec.numel for spec in param_specs(ran.view.plan)) * 8
    book = ran.report["ledger"]
    for op in ("recv", "send"):
        payload = book["wire"]["measured"]["p2p"][op]["payload_bytes"]
        assert payload == [3 * size] * 4 + [3 * 4 * size]
    assert book["wire"]["measured_total_bytes"] == 3 * 2 * 4 * size
    memory = book["memory"]["measured"]
    assert memory["params"] == memory["grads"] == [size] * 5


def test_only_the_server_keeps_optimizer_state(four):
    """AdamW's two moments once, not once a worker."""
    ran = four["async gpt"]
    size = sum(spec.numel for spec in param_specs(ran.view.plan)) * 8
    assert ran.report["ledger"]["memory"]["measured"]["optimizer"] == [0, 0, 0, 0, 2 * size]


@every_dress
def test_out_of_step_it_is_one_process_that_is_as_stale(dress, four):
    view, report, _ = four[f"async {dress}"]
    assert report["parity"]["counted"][-1] == "parameters"
    assert report["parity"]["max_rel_error"] <= 1e-10
    check(view.program)
    units = view.plan.model.layers + 2
    assert prove(view.program) == 12 * (units + view.plan.model.tied)
    balanced(report["ledger"])
    found = report["staleness"]
    assert found["total"] == found["expected_total"] == expected_total(4, 12)
    for row in found["updates"]:
        assert row["staleness"] == row["number"] - row["version"]


@every_dress
def test_the_trace_is_the_program_of_the_order_that_happened(dress, four):
    """Instruction by instruction, also who was met; and the order is in the server's spans."""
    ran = four[f"async {dress}"]
    for instrs, result in zip(ran.view.program.ranks, ran.results, strict=True):
        assert result["ran"] == [[i.op, i.where, str(i.lane), i.peer] for i in instrs]
    updates = [s for s in ran.view.trace.spans if s.op == Op.O]
    updates.sort(key=lambda s: s.t_start)
    assert [s.where for s in updates] == [f"worker{w}" for w in ran.report["replay_order"]]
    assert [s.mb for s in updates] == list(range(12))
    pulls = {s.mb: s.t_start for s in ran.spans("send", "weights", 4)}
    for row in ran.report["staleness"]["updates"]:
        came = sum(s.t_done <= pulls[row["number"]] for s in updates)
        assert came == row["version"]  # so many were over when the weights were sent
    assert ran.view.own_device().makespan > 0


@every_dress
def test_given_its_order_a_run_repeats_itself_to_the_last_bit(dress, four, four_again):
    first, again = four[f"async {dress}"], four_again[f"async {dress}"]
    for key in ("replay_order", "digest", "losses"):
        assert again.report[key] == first.report[key]
    assert again.view.program == first.view.program


def test_an_order_is_kept_whatever_comes_first(two):
    """The slow worker's gradients before those that have long been there; other orders, others."""
    report = two["paced, slow first"].report
    assert report["replay_order"] == SLOW_FIRST
    assert report["parity"]["max_rel_error"] <= 1e-10
    assert [row["version"] for row in report["staleness"]["updates"]][:4] == [0, 1, 2, 0]
    assert two["slow first"].report["digest"] == report["digest"]
    assert two["fast first"].report["digest"] != report["digest"]


def test_one_worker_is_never_stale(pool):
    """W = 1, asynchronous: the same as in step."""
    plan = plan_of("async", dp=1, global_batch=4)
    in_step = plan.but(parameter_server="sync")
    ran = run_all(pool, {"async": asked(plan), "sync": asked(in_step)})
    assert ran["async"].report["staleness"]["mean"] == 0
    assert ran["async"].report["digest"] == ran["sync"].report["digest"]
    assert ran["sync"].parity["max_rel_error"] <= 1e-10


def test_loss_curves_lie_side_by_side_at_equal_text(four):
    """As many rows as steps in either mode, and a step of both has read one global batch."""
    in_step, out = four["curve sync"].report, four["curve async"].report
    for report in (in_step, out):
        losses = [row["loss"] for row in report["steps"]]
        assert len(losses) == 12 and losses[-1] < losses[0]
    assert len(out["losses"]) == 12 * 4
    # four updates a step where the other makes one: the curve falls faster, though stale
    assert out["steps"][-1]["loss"] < in_step["steps"][-1]["loss"]


def test_a_run_that_goes_on_can_be_watched(pool):
    """Midway the trace has the spans whose updates are known, named as they are at the end."""
    plan, seen = plan_of("async"), []
    view = view_of(plan)
    with pool.start(TRAIN, 5, {"plan": plan.flat(), "steps": 4, "parity": False}) as going:
        for event in going.events():
            view.feed(event)
            if event["event"] == "progress":
                seen.append(view.trace)
        view.finish(going.wait())
    final = {(s.rank, s.index): s for s in view.trace.spans}
    assert len(seen) == 4 and 0 < len(seen[0].spans) < len(final)
    for trace in seen:
        for span in trace.spans:
            same = final[span.rank, span.index]
            assert (span.op, span.where, span.peers) == (same.op, same.where, same.peers)
            assert span.mb in (same.mb, None)

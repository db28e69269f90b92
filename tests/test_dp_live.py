"""Data parallelism on real processes equals one process, and the ledgers agree with it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from parallel_core.plan import Plan
from parallel_core.report import RunView, ledger

pytestmark = pytest.mark.live

SMALL = {"layers": 2, "hidden": 32, "heads": 4, "seq": 16, "global_batch": 16, "bucket_mb": 0.05}
STEPS = 3


def plans_for(dp: int, *, every: bool) -> list[dict[str, Any]]:
    """Every dialect, method, accumulation and precision that the claim names, at one world size.

    A sample has every other one, so chosen that any three choices still meet in all ways.
    """
    methods = ["naive", "bucketed"] if dp > 1 else ["bucketed"]
    found = []
    choices = (methods, [1, 4], ["gpt", "llama"], ["float64", "float32"], ["adamw", "sgd"])
    for i, at in enumerate(itertools.product(*(range(len(each)) for each in choices))):
        if not every and sum(at) % 2:
            continue
        method, mb, dialect, dtype, opt = (each[n] for each, n in zip(choices, at, strict=True))
        more = {"tied": i % 3 == 0, "dropout": 0.1 if dialect == "gpt" and i % 2 else 0.0}
        plan = Plan.of(
            **SMALL, **more, dp=dp, dp_method=method, microbatches=mb, dialect=dialect,
            dtype=dtype, optimizer=opt,
        )  # fmt: skip
        found.append(plan.flat())
    return found


@pytest.mark.parametrize("dp", [1, 2, 4])
def test_every_layout_trains_the_model_of_one_process(dp, on_ranks, whole_matrix):
    """Loss, every gradient and the weights after 3 steps, for SGD and AdamW."""
    plans = plans_for(dp, every=whole_matrix)
    by_rank = on_ranks(dp, "dp_targets:train_all", plans=plans, steps=STEPS)
    for i, plan in enumerate(plans):
        parity = by_rank[0][i]["parity"]
        bound = 1e-10 if plan["dtype"] == "float64" else 1e-5
        noise = (plan["dtype"], plan["optimizer"]) == ("float32", "adamw")
        assert parity["counted"] == [
            *("loss", "gradient norm", "gradients"),
            *([] if noise else ["parameters"]),
        ]
        assert parity["max_rel_error"] <= bound, (plan, parity)


@pytest.mark.parametrize("dp", [2, 4])
def test_the_ledgers_agree_to_the_byte(dp, on_ranks):
    """Wire, resident state, kept activations and control traffic: predicted equals measured."""
    base = {**SMALL, "dp": dp}
    plans = [
        Plan.of(**{**base, **more})
        for more in (
            {"dp_method": "naive", "tied": True, "seq": 128},
            {"microbatches": 2, "dialect": "gpt"},
            {"dtype": "bfloat16", "kv_heads": 2},
            {"dtype": "bfloat16", "dialect": "gpt", "dropout": 0.1},
            {"dtype": "float64", "optimizer": "sgd", "kv_heads": 1},
        )
    ]
    flat = [plan.flat() for plan in plans]
    by_rank = on_ranks(dp, "dp_targets:train_all", plans=flat, steps=2, parity=False)
    for i, plan in enumerate(plans):
        book = ledger(plan, [results[i] for results in by_rank], 2)
        assert book["wire"]["predicted"] == book["wire"]["measured"]
        assert book["memory"]["predicted"] == book["memory"]["measured"]
        assert book["memory"]["peak_state_bytes"] == book["checks"]["predicted_peak_state_bytes"]
        assert book["activations"]["differences"] == []
        assert book["control"]["predicted"] == book["control"]["measured"]
        assert book["comm_buffers"]["differences"] == []


def test_the_wire_agrees_with_the_kernels_own_count(on_ranks):
    """What gloo wrote, as /proc/self/io counts it, is within 1 % of what we say was sent."""
    plan = Plan.of(dp=2, layers=2, hidden=512, heads=8, seq=16, global_batch=4, bucket_mb=16)
    results = on_ranks(2, "parallel_core.runtime:train", plan=plan.flat(), steps=2, parity=False)
    book = ledger(plan, results, 2)
    written = book["checks"]["kernel_bytes_written"]
    if written == 0:
        pytest.skip("this kernel does not count written bytes in /proc/self/io")
    assert written == pytest.approx(book["wire"]["measured_total_bytes"], rel=0.01)


@pytest.mark.parametrize("method", ["naive", "bucketed"])
def test_messages_are_those_the_program_names(method, on_ranks):
    """Kind, axis, bytes, count and order, instruction by instruction."""
    plan = Plan.of(**SMALL, dp=2, dp_method=method, microbatches=2).flat()
    for recorded, named in on_ranks(2, "dp_targets:messages_as_recorded", plan=plan):
        assert recorded == named
        assert len(recorded) > 3


def test_replicas_stay_equal_to_the_bit(on_ranks):
    """The same sum in the same order on every rank leaves no difference at all."""
    plan = Plan.of(**SMALL, dp=4).flat()
    assert all(on_ranks(4, "dp_targets:bit_equal_replicas", plan=plan, steps=3))


def faulty(on_ranks, fault: str) -> tuple[Plan, list[Any]]:
    plan = Plan.of(**SMALL, dp=2, dtype="float64", optimizer="sgd")
    args = {"plan": plan.flat(), "steps": 2, "fault": fault}
    return plan, on_ranks(2, "dp_targets:train_with_fault", **args)


def test_an_extra_message_turns_the_wire_ledger_red(on_ranks):
    plan, results = faulty(on_ranks, "extra message")
    wire = ledger(plan, results, 2)["wire"]
    assert wire["measured"] != wire["predicted"]
    assert results[0]["parity"]["max_rel_error"] < 1e-10  # nothing else would have told


def test_a_leaked_clone_turns_the_memory_ledger_red(on_ranks):
    plan, results = faulty(on_ranks, "leaked clone")
    book = ledger(plan, results, 2)
    leaked = book["memory"]["measured"]["grads"][0]
    assert [d["bytes"] for d in book["comm_buffers"]["differences"]] == [leaked, leaked]


@pytest.mark.parametrize("fault", ["skipped reduction", "mean instead of sum"])
def test_a_wrong_sum_turns_the_parity_red(fault, on_ranks):
    _, results = faulty(on_ranks, fault)
    assert results[0]["parity"]["max_rel_error"] > 1e-3


def test_an_activation_kept_too_many_is_named(on_ranks):
    plan, results = faulty(on_ranks, "kept activation")
    rows = plan.rows_per_microbatch * plan.seq * plan.model.hidden * 8
    differences = ledger(plan, results, 2)["activations"]["differences"]
    assert {d["unit"]: d["bytes"] for d in differences} == {"layer0": rows, "layer1": rows}


def test_speed_is_tokens_over_seconds(on_ranks):
    """And the seconds are those of the step: at least its spans', not much more."""
    plan = Plan.of(**SMALL, dp=2)
    results = on_ranks(2, "dp_targets:train_all", plans=[plan.flat()], steps=3, parity=False)
    for metrics in results[0][0]["metrics"]:
        assert metrics["tokens_per_s"] * metrics["seconds"] == pytest.approx(16 * 16)


def test_live_bytes_see_large_and_small_tensors(on_ranks):
    """The allocator's count moves by what is made and dropped, large or small."""
    for made in on_ranks(1, "dp_targets:allocated", sizes=[64 << 20, 200 << 10])[0]:
        assert made["seen"] == pytest.approx(made["bytes"], rel=0.05, abs=64 << 10)
        assert abs(made["after"]) <= 64 << 10


def test_the_live_order_is_the_programs(pool):
    """Every instruction once a step, in its lane's order, after everything it needed."""
    plan = Plan.of(**SMALL, dp=2, microbatches=2)
    view = RunView(plan)
    with pool.start("parallel_core.runtime:train", 2, {"plan": plan.flat(), "steps": 2}) as run:
        for event in run.events():
            view.feed(event)
        view.finish(run.wait())
    for rank, instrs in enumerate(view.program.ranks):
        for step in range(2):
            spans = [s for s in view.trace.spans if (s.rank, s.step) == (rank, step)]
            assert sorted(s.index for s in spans) == list(range(len(instrs)))
            for lane in ("compute", "comm"):
                ran = sorted((s for s in spans if s.lane == lane), key=lambda s: s.t_start)
                assert [s.index for s in ran] == [
                    i for i, instr in enumerate(instrs) if instr.lane == lane
                ]
                assert all(a.t_done <= b.t_start for a, b in itertools.pairwise(ran))
            done = {s.index: s.t_done for s in spans}
            for span in spans:
                if span.op != "wait":
                    assert all(done[dep] <= span.t_start for dep in span.deps)

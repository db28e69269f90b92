"""Faults planted in ZeRO runs: each turns the check red that it should."""

from __future__ import annotations

import pytest
from zero_runs import EXACT, SGD, STEPS, Followed, most_gradients, most_weights, whole_blocks

from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.report import RunView

pytestmark = pytest.mark.live


DEEP = {**EXACT, "layers": 4, "dp": 2, **SGD, "seq": 8}
WIDE = {**EXACT, "layers": 4, "hidden": 64, "dp": 2, **SGD}
PLANTED = [
    (Plan.of(**DEEP, zero=3), "kept gather"),
    (Plan.of(**DEEP, zero=3), "saved weight"),
    (Plan.of(**DEEP, zero=2), "leaked gradient"),
    (Plan.of(**DEEP, zero=3), "leaked gradient 3"),
    (Plan.of(**DEEP, zero=2), "diverging"),
    (Plan.of(**DEEP, zero=3, shard=1), "diverging 3"),
    (Plan.of(**DEEP, zero=2, clip=0.05), "norm of one shard"),
    (Plan.of(**DEEP, zero=1), "skipped scatter"),
    (Plan.of(**WIDE, zero=2), "hidden gradient"),
    (Plan.of(**WIDE, zero=3), "hidden weight"),
    (Plan.of(**DEEP, zero=3), None),
    (Plan.of(**DEEP, zero=2), None),
    (Plan.of(**WIDE, zero=2), None),
    (Plan.of(**WIDE, zero=3), None),
]


@pytest.fixture(scope="module")
def planted(pool):
    """By fault: its report."""
    runs = Followed(pool, 2, "zero_targets:train_with_faults", runs=PLANTED, steps=STEPS)
    wide = [" wide" * (plan.model.hidden == WIDE["hidden"]) for plan in runs.plans]
    names = [fault or f"none {p.zero}{w}" for (p, fault), w in zip(PLANTED, wide, strict=True)]
    return dict(zip(names, zip(runs.plans, runs.views, runs.reports, strict=True), strict=True))


@pytest.mark.parametrize("fault", ["kept gather", "saved weight"])
def test_a_gathered_block_kept_alive_turns_the_window_red(fault, planted):
    """The numbers stay right: nothing but the measured bytes tells."""
    plan, _, report = planted[fault]
    memory = report["ledger"]["memory"]
    assert max(memory["peak"]["params"]) > most_weights(plan)
    assert max(memory["peak"]["params"]) > max(memory["predicted_peak"]["params"])
    assert "bytes of params, where the outline says" in report["outline"]["differences"][0]
    assert report["parity"]["max_rel_error"] <= 1e-10


@pytest.mark.parametrize("fault", ["leaked gradient", "leaked gradient 3"])
def test_a_leaked_block_of_gradient_turns_the_peak_red(fault, planted):
    """A whole gradient's bytes are there at the end of the backward."""
    plan, _, report = planted[fault]
    memory = report["ledger"]["memory"]
    assert max(memory["peak"]["grads"]) > most_gradients(plan)
    assert "bytes of grads, where the outline says" in report["outline"]["differences"][0]
    assert report["parity"]["max_rel_error"] <= 1e-10


@pytest.mark.parametrize("zero", [2, 3])
def test_without_a_fault_the_same_plans_are_green(zero, planted):
    plan, _, report = planted[f"none {zero}"]
    memory = report["ledger"]["memory"]
    assert max(memory["peak"]["grads"]) <= most_gradients(plan)
    assert zero == 2 or max(memory["peak"]["params"]) <= most_weights(plan)
    assert report["outline"]["differences"] == []


def left_by_the_backward(view: RunView, rank: int, step: int) -> int:
    """Bytes that the allocator has more of before a rank's update than after it, in a step that
    makes no state: it counts what nobody watches, too."""
    spans = [s for s in view.trace.by_rank[rank] if s.step == step]
    before, after = (next(s for s in spans if s.op == op).memory for op in (Op.NORM, Op.O))
    return before - after


@pytest.mark.parametrize(
    ("run", "blocks_left"),
    [("none 2 wide", 0), ("none 3 wide", 0), ("hidden gradient", 4), ("hidden weight", 8)],
)
def test_a_copy_that_nobody_watches_is_seen_by_the_allocator(run, blocks_left, planted):
    """When the backward is over no whole block is left, of gradients or of weights. Copies that
    are gone before the step ends escape every other reading."""
    plan, view, report = planted[run]
    if not any(span.memory for span in view.trace.spans):
        pytest.skip("this platform's allocator does not count")
    largest = max(whole_blocks(plan).values())
    found = [left_by_the_backward(view, rank, step) for rank in (0, 1) for step in (1, 2)]
    assert report["outline"]["differences"] == []
    if blocks_left:
        assert min(found) >= blocks_left * largest
    else:
        assert max(found) < largest / 2


@pytest.mark.parametrize("fault", ["diverging", "diverging 3"])
def test_one_bit_in_one_weight_turns_the_replicas_red(fault, planted):
    """And the first step after which they differ is named; parity is far too coarse to see it."""
    _, _, report = planted[fault]
    found = report["replicas"]
    assert found["equal"] is False
    words = "after step 1 the weights of rank 1 are not those of rank 0"
    assert found["first_difference"] == words
    assert report["parity"]["max_rel_error"] <= 1e-10


@pytest.mark.parametrize("fault", ["norm of one shard", "skipped scatter"])
def test_a_wrong_sum_turns_the_parity_red(fault, planted):
    """Clipping by a rank's own norm; a shard that is only a rank's own."""
    assert planted[fault][2]["parity"]["max_rel_error"] > 1e-3

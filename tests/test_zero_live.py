"""ZeRO on real ranks: every stage trains one process's model and holds what it promised."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from zero_runs import (
    ADAMW,
    CLIPPED,
    EXACT,
    GPT,
    HSDP,
    SGD,
    STEPS,
    THREE,
    TIED,
    Followed,
    most_gradients,
    most_weights,
)

from parallel_core.outline import KINDS, STATE, memory_outline
from parallel_core.plan import Plan

pytestmark = pytest.mark.live


def same_training(dp: int) -> list[list[Plan]]:
    """Groups of plans that train alike; the first of each is plain data parallelism."""
    kinds = [
        {**SGD, **GPT},
        {**ADAMW, **TIED},
        {**ADAMW, **GPT, **THREE},
        {**SGD, **TIED, **THREE, **CLIPPED},
        {**ADAMW, "dialect": "llama", **CLIPPED},
    ]
    return [
        [Plan.of(**EXACT, dp=dp, **kind, **layout) for layout in ({}, *layouts(dp, i))]
        for i, kind in enumerate(kinds)
    ]


def layouts(dp: int, i: int) -> list[dict[str, Any]]:
    """The three stages; of the third its choices; HSDP where there is room for it."""
    shards = HSDP if dp == 4 else [{}]
    found = [{"zero": zero, **shards[(zero + i) % len(shards)]} for zero in (1, 2)]
    found += [{"zero": 3, "prefetch": i % 4, **shard} for shard in shards]
    found += [{"zero": zero} for zero in (1, 2) if i == 0 and dp == 4]
    return [*found, {"zero": 3, "keep_gathered": True, "prefetch": (i + 2) % 4}]


@pytest.fixture(scope="module")
def trained(pool, whole_matrix):
    """By dp: every plan of `same_training`, run once; of three ranks a sample of the kinds, with
    and without accumulation, a tied table and clipping."""

    @cache
    def run(dp: int) -> Followed:
        groups = same_training(dp)
        if dp == 3 and not whole_matrix:
            groups = [groups[0], *groups[3:]]
        every = [plan for group in groups for plan in group]
        return Followed(pool, dp, "zero_targets:train_all", plans=every, steps=STEPS)

    return run


worlds = pytest.mark.parametrize("dp", [2, 3, 4])


@worlds
def test_every_stage_trains_the_model_of_one_process(dp, trained):
    """Loss, norm over all shards, every gradient, and the weights after 3 steps, in float64."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        assert report["parity"]["max_rel_error"] <= 1e-10, (plan, report["parity"])
        assert len(report["parity"]["counted"]) == 4
        assert len(report["steps"]) == STEPS


def test_on_two_ranks_the_bits_are_those_of_plain_dp(trained):
    """a + b is b + a, however gradients are cut. Not so with accumulation from stage 2 on, which
    sums over ranks first and over microbatches then, nor clipped: squares are summed by shard."""
    weights, compared = bits(trained(2)), 0
    for plain, *others in same_training(2):
        for plan in others:
            if (plan.zero == 1 or plan.microbatches == 1) and plan.clip is None:
                same = plan.shard_axis == "dp"
                assert not same or weights[plan] == weights[plain], plan
                compared += same
    assert compared >= 9


def bits(found: Followed) -> dict[Plan, str]:
    """A hash of the weights after the last step, by plan."""
    pairs = zip(found.plans, found.results, strict=True)
    return {plan: results[0]["weights"] for plan, results in pairs}


@worlds
def test_one_cut_and_one_order_of_sums_make_the_same_bits(dp, trained):
    """Stages 2 and 3, whatever is gathered when, and stage 1 where its buckets are units (a tied
    head's norm shares one) and are summed once. Here plain data parallelism differs from three
    ranks on: the ring of gloo's all-reduce starts every chunk at another rank than its owner."""
    alike: dict[Plan, dict[Plan, str]] = {}
    for plan, weights in bits(trained(dp)).items():
        if plan.zero >= 2 or (plan.zero == 1 and plan.microbatches == 1 and not plan.model.tied):
            key = plan.but(zero=2, prefetch=1, keep_gathered=False)
            alike.setdefault(key, {})[plan] = weights
    assert all(len(set(group.values())) == 1 for group in alike.values()), alike
    assert any({plan.zero for plan in group} == {1, 2, 3} for group in alike.values())


@worlds
def test_the_ledger_agrees_to_the_byte(dp, trained):
    """On the wire, between steps, and never above the peak that the program allows."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        book = report["ledger"]
        assert book["wire"]["predicted"] == book["wire"]["measured"], plan
        assert book["control"]["predicted"] == book["control"]["measured"], plan
        memory = book["memory"]
        assert memory["predicted"] == memory["measured"], plan
        assert book["activations"]["differences"] == [], plan
        assert book["comm_buffers"]["differences"] == [], plan
        for kind, peaks in memory["peak"].items():
            most = memory["predicted_peak"][kind]
            assert all(a <= b for a, b in zip(peaks, most, strict=True)), (plan, kind)
        assert memory["peak"]["optimizer"] == memory["predicted"]["optimizer"]


@worlds
def test_measured_memory_follows_its_outline(dp, trained):
    """After every instruction of the compute lane the bytes are those of the program's values, to
    the byte; while a message is under way, those of before it, inside it or after it."""
    exact = boundaries = 0
    for plan, view, report in zip(
        trained(dp).plans, trained(dp).views, trained(dp).reports, strict=True
    ):
        found = report["outline"]
        assert found["differences"] == [], plan
        compute = sum(i.lane == "compute" for rank in view.program.ranks for i in rank)
        assert found["equal"] + found["within_a_message"] == compute * STEPS
        rows = sum(map(len, view.program.ranks)) * STEPS
        assert len(view.gauge) == rows
        if plan.zero < 2:
            assert found["within_a_message"] == 0 or plan.zero == 1
        exact, boundaries = exact + found["equal"], boundaries + compute * STEPS
    assert exact > boundaries / 5


@worlds
def test_a_replayed_run_has_an_outline_too(dp, trained):
    """A row an instruction; at the end of the run what was measured there."""
    found = trained(dp)
    view, report = next(
        pair for pair in zip(found.views, found.reports, strict=True) if pair[0].plan.zero == 3
    )
    rows = memory_outline(view.plan, view.program, view.own_device())
    assert len(rows) == len(view.gauge)
    memory = report["ledger"]["memory"]
    for rank in range(dp):
        last = [row for row in rows if row.rank == rank][-1]
        assert {kind: last[kind] for kind in KINDS} == {
            "activations": 0,
            **{kind: memory["measured"][kind][rank] for kind in STATE},
        }


@worlds
def test_every_run_can_be_replayed(dp, trained):
    """On a device a rank; a group of one, which sends nothing, tells nothing of the link."""
    for view in trained(dp).views:
        assert view.own_device().makespan > 0, view.plan


def test_a_group_of_one_rank_is_still_zero(pool):
    """dp = 1: nobody to share with, nothing on the wire, everything else as it is."""
    plans = [Plan.of(**EXACT, zero=zero, microbatches=3, clip=0.05) for zero in (1, 2, 3)]
    found = Followed(pool, 1, "zero_targets:train_all", plans=plans, steps=STEPS)
    for report in found.reports:
        book = report["ledger"]
        assert report["parity"]["max_rel_error"] <= 1e-10
        assert book["wire"]["predicted"] == book["wire"]["measured"]
        assert book["wire"]["measured_total_bytes"] == 0
        assert book["memory"]["predicted"] == book["memory"]["measured"]
        assert report["outline"]["differences"] == []


@worlds
def test_ranks_that_hold_the_same_weights_agree_after_every_step(dp, trained):
    """All ranks, or with zero=3 those of different groups; alone, a shard has no replica."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        found = report["replicas"]
        if plan.zero == 3 and plan.shards == dp:
            assert found is None
        else:
            assert found["equal"] and found["steps"] == STEPS, (plan, found)


@worlds
def test_stage_2_never_holds_a_full_gradient(dp, trained):
    """Two blocks beside its own shards, measured whenever a buffer is made."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        if plan.zero >= 2:
            assert max(report["ledger"]["memory"]["peak"]["grads"]) <= most_gradients(plan), plan


@worlds
def test_stage_3_never_holds_more_weights_than_its_window(dp, trained):
    """prefetch + 1 blocks beside its own shards, measured whenever a buffer is made."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        if plan.zero == 3:
            assert max(report["ledger"]["memory"]["peak"]["params"]) <= most_weights(plan), plan

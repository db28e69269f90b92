"""Experts where a sequence is padded, and beside ZeRO: they are one process there too."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_experts_live import TINY, run_all

from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.data.blocks import blocks
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.prove import prove

pytestmark = pytest.mark.live

PADDED: list[dict[str, Any]] = [
    {"balance": "aux", "aux_loss": 1.0, "z_loss": 0.1},
    {"balance": "bias", "bias_rate": 0.05},
    {"router": "capacity", "capacity": 0.75, "balance": "aux", "aux_loss": 1.0},
    {"router": "expert-choice", "capacity": 0.75},
]


def test_padding_asks_for_no_expert_and_owes_no_loss(pool):
    """A sequence of 7 over 2 ranks: what fills it up counts in no load, no loss and no capacity."""
    plans = [
        Plan.of(**TINY | {"cp": 2, "ep": 2, "seq": 7, "global_batch": 4} | more) for more in PADDED
    ]
    for ran in run_all(pool, plans):
        assert ran.plan.context.padded > ran.plan.seq
        assert ran.report["parity"]["max_rel_error"] <= 1e-10, ran.plan
        asked = ran.plan.tokens_per_step * ran.plan.model.top_k * ran.plan.model.layers
        if ran.plan.model.router != "expert-choice":
            assert [s["asked"] for s in ran.report["experts"]["steps"]] == [asked] * 3
        if ran.plan.model.router == "dropless":
            assert [s["dropped"] for s in ran.report["experts"]["steps"]] == [0] * 3
        book = ran.report["ledger"]["wire"]
        assert book["predicted"] == book["measured"], ran.plan


def test_weights_that_ranks_hold_alike_stay_alike(pool):
    """Of ranks that share experts out, only those with the same ones are compared."""
    layouts = [{"dp": 2, "ep": 2}, {"cp": 2, "ep": 2}, {"dp": 2, "ep": 2, "zero": 1}]
    plans = [Plan.of(**TINY | layout) for layout in layouts]
    for ran in run_all(pool, plans):
        held = ran.report["replicas"]
        assert held is None or held["equal"], (ran.plan, held)


SHARDED: list[dict[str, Any]] = [
    {"dp": 4, "ep": 2, "zero": 1, "clip": 0.05},
    {"dp": 4, "ep": 2, "zero": 2, "microbatches": 2},
    {"dp": 4, "ep": 2, "zero": 3, "clip": 0.05, "prefetch": 2},
    {"dp": 4, "ep": 2, "zero": 3, "shard": 2, "microbatches": 2},
    {"dp": 4, "ep": 4, "zero": 3, "balance": "bias"},
    {"dp": 2, "ep": 2, "tp": 2, "zero": 1, "clip": 0.05},
    {"dp": 2, "ep": 2, "tp": 2, "sp": True, "zero": 3},
    {"dp": 2, "ep": 2, "pp": 2, "zero": 1, "microbatches": 4, "schedule": "zb-h1", "clip": 0.05},
    {"dp": 2, "ep": 2, "pp": 2, "zero": 2, "microbatches": 4, "schedule": "dualpipe"},
]  # fmt: skip


def test_experts_whose_state_is_sharded_are_one_process(pool):
    """Experts are sharded over those ranks that hold the same, what is around them over all."""
    plans = [Plan.of(**TINY | more) for more in SHARDED]
    for ran in run_all(pool, plans):
        assert ran.report["parity"]["max_rel_error"] <= 1e-10, ran.plan
        book = ran.report["ledger"]
        assert book["wire"]["predicted"] == book["wire"]["measured"], ran.plan
        assert book["memory"]["predicted"] == book["memory"]["measured"], ran.plan


@st.composite
def sharded(draw: st.DrawFn) -> Plan:
    """ZeRO's stages and HSDP beside experts and every other axis."""
    zero, dp = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([2, 4, 8]))
    cp, tp, pp = (draw(st.sampled_from([1, 1, 2])) for _ in range(3))
    shard = draw(st.sampled_from([n for n in (2, 4, 8) if dp % n == 0]))
    fits = [n for n in (2, 4, 8) if (dp * cp) % n == 0 and shard % n == 0]
    more: dict[str, Any] = {
        "ep": draw(st.sampled_from(fits)),
        "clip": draw(st.sampled_from([None, 1.0])),
    }
    if shard < dp:
        more["shard"] = shard
    m = draw(st.sampled_from([1, 2])) if pp == 1 else 4
    if pp > 1:
        more["schedule"] = draw(
            st.sampled_from(["gpipe", "1f1b", "zb-h1", "interleaved", "dualpipe"])
        )
    more |= draw(st.sampled_from([{}, {"balance": "bias"}]))
    if tp > 1:
        more["sp"] = draw(st.booleans())
    return Plan.of(
        **{**TINY, "layers": 4, "seq": 16, "global_batch": dp * m}, zero=zero, dp=dp, cp=cp, tp=tp,
        pp=pp, microbatches=m, **more,
    )  # fmt: skip


@given(sharded())
@settings(max_examples=40, deadline=None)
def test_programs_of_sharded_experts_are_legal_and_proved(plan):
    """Every gradient is summed once over those that hold its weights; no message waits for ever."""
    program = program_of(plan)
    check(program)
    assert prove(program)
    every = {u for u, piece in enumerate(pieces(plan)) if piece.holds_experts}
    for block in blocks(plan):
        if every & set(block.units):
            group = plan.mesh.degree(block.axis)
            copies = plan.mesh.degree(block.replicas) if block.replicas else 1
            assert group * copies * plan.ep == plan.gradient_ranks
            assert not set(block.units) - every


def test_a_traces_messages_weigh_what_was_handed_over(pool):
    """The counts that travel ahead of rows are bytes of the first dispatch's span as well."""
    for ran in run_all(pool, [Plan.of(**TINY | {"dp": 2, "ep": 2})]):
        counted = ran.report["ledger"]["wire"]["measured"]["ep"]["all_to_all"]["payload_bytes"]
        for rank, spans in enumerate(ran.view.trace.by_rank):
            assert sum(s.bytes or 0 for s in spans if s.op == "all_to_all") == counted[rank]

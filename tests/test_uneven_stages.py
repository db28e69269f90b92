"""Stages of a pipeline need not be alike: more pieces on one rank than another, or no layer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_experts_live import TINY, run_all

from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Op, Program
from parallel_core.prove import prove
from parallel_core.report import weight_copies

ROUTED: dict[str, Any] = {**TINY, "experts": 4, "dp": 2, "ep": 2, "pp": 2, "global_batch": 16}


@settings(max_examples=30, deadline=None)
@given(
    pp=st.sampled_from([2, 4]),
    layers=st.integers(2, 5),
    ep=st.sampled_from([1, 2]),
    zero=st.sampled_from([0, 1, 3]),
    tied=st.booleans(),
    balance=st.sampled_from(["none", "bias"]),
)
def test_a_pair_of_tasks_of_other_lengths_is_legal(pp, layers, ep, zero, tied, balance):
    """DualPipe lays tasks of two stages over each other: messages leave in the order of the tasks,
    and loads are summed with ranks that hold other pieces."""
    layout = {"pp": pp, "layers": max(layers, pp - 1), "ep": ep, "zero": zero, "tied": tied}
    chosen = {"schedule": "dualpipe", "microbatches": 2 * pp, "balance": balance}
    program = program_of(Plan.of(**ROUTED | layout | chosen))
    check(program)
    assert prove(program)
    assert Program.parse(str(program)) == program


@pytest.mark.parametrize("ep", [1, 2])
def test_stale_forwards_of_every_piece_read_the_weights_of_the_formula(ep):
    """With a stage laid open as well: after max(0, mb - (p-1-s)) updates of it."""
    plan = Plan.of(**ROUTED | {"ep": ep, "schedule": "pipedream", "microbatches": 4})
    program, stages = program_of(plan), {p.name: p.stage for p in pieces(plan)}
    for instrs in program.ranks:
        for instr in (i for i in instrs if i.op in (Op.F, Op.B)):
            for value in (value for value in instr.reads if value.name == "w"):
                assert value.at[1] == max(0, instr.mb - (1 - stages[instr.where])), instr
    assert weight_copies(program) == [2, 2, 1, 1]


LIVE: list[dict[str, Any]] = [
    {"layers": 3, "schedule": "dualpipe", "balance": "bias"},
    {"stage_layers": "2,0", "balance": "bias"},
    {"stage_layers": "0,2", "ep": 1, "tied": True, "zero": 1, "balance": "bias"},
    {"schedule": "zb-h1", "zero": 2, "tied": True, "ep": 1},
    {"schedule": "zb-h1", "zero": 3, "tied": True},
    {"schedule": "pipedream", "layers": 3},
    {"experts": 0, "ep": 1, "dp": 1, "tp": 2, "tied": True, "dialect": "gpt", "zero": 0},
    {"experts": 0, "ep": 1, "dp": 1, "tp": 2, "tied": True, "dialect": "gpt", "zero": 1},
]


@pytest.mark.live
def test_nothing_differs_and_nothing_is_left(pool):
    """Parity, every message and scalar, the training state; no gradient stays behind its sum."""
    for ran in run_all(pool, [Plan.of(**ROUTED | {"microbatches": 4} | more) for more in LIVE]):
        book, memory = ran.report["ledger"], ran.report["ledger"]["memory"]
        assert ran.report["parity"]["max_rel_error"] <= 1e-10, ran.plan
        for kind in ("wire", "control"):
            assert book[kind]["predicted"] == book[kind]["measured"], (ran.plan, kind)
        for kind in ("params", "grads", "optimizer"):
            assert memory["predicted"][kind] == memory["measured"][kind], (ran.plan, kind)
        assert book["comm_buffers"]["measured"] == [0] * ran.plan.world_size, ran.plan
        copies = memory["weight_copies"]
        assert not ran.plan.asynchronous or copies["predicted"] == copies["measured"], ran.plan

"""The parameter server as a program: legal, every gradient applied once, in the order of events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parameter_server_runs import GPT, LLAMA, plan_of

from parallel_core.check import check
from parallel_core.cost import UnitCost
from parallel_core.data import server_step
from parallel_core.data.parameter_server import in_order, order_of
from parallel_core.data.server_step import SpeedCost, program
from parallel_core.plan import Plan
from parallel_core.program import Op, Program, ProgramError
from parallel_core.prove import prove
from parallel_core.simulate import simulate


def plans() -> list[Plan]:
    kinds: list[dict[str, Any]] = [
        {"kind": "sync"},
        {"kind": "sync", "dp": 1},
        {"kind": "async"},
        {"kind": "async", "dp": 2, "speeds": "1,2.5"},
        {"kind": "async", "staleness_bound": 0, "speeds": "1,1,1,3"},
    ]
    return [plan_of(**kind, **dress) for kind in kinds for dress in (LLAMA, GPT)]


@pytest.mark.parametrize("plan", plans(), ids=lambda p: f"{p.layout} {p.model.dialect}")
def test_programs_are_legal_and_apply_every_gradient_once(plan):
    made = program(plan)
    check(made)
    terms = sum(instr.op == Op.B for _, _, instr in made) + plan.model.tied * sum(
        instr.op == Op.F and instr.where == "head" for _, _, instr in made
    )
    assert prove(made) == terms
    assert Program.parse(str(made)) == made


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0]), min_size=1, max_size=3), st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_the_program_updates_when_the_events_say(speeds, count):
    """simulate(program) and order_of know nothing of each other."""
    plan = plan_of("async", dp=len(speeds), global_batch=len(speeds))
    updates = order_of(speeds, count)
    made = server_step.asynchronous(plan, [u.worker for u in updates])
    trace = simulate(made, SpeedCost(UnitCost(), (*speeds, 1.0)))
    beats = 3 * (plan.model.layers + 2)  # F and B of every unit
    done = {span.mb: span.t_done / 1e9 / beats for span in trace.spans if span.op == Op.O}
    assert done == {u.number: u.seconds for u in updates}


def test_a_worker_left_out_of_the_sum_is_named():
    plan = plan_of("sync", dp=3, global_batch=3)
    made = program(plan)
    server = [
        replace(instr, reads=instr.reads[: len(instr.writes)], frees=instr.frees)
        if instr.where == "worker1" else instr
        for instr in made.ranks[3]
    ]  # fmt: skip
    with pytest.raises(ProgramError, match="from rank 1, microbatch 0, 0 times; once is right"):
        prove(replace(made, ranks=(*made.ranks[:3], tuple(server))))


def test_a_gradient_that_no_update_takes_is_named():
    made = program(plan_of("async", dp=2, global_batch=2), [0, 1, 0])
    server = [
        replace(instr, op=Op.NORM) if (instr.op, instr.mb) == (Op.O, 1) else instr
        for instr in made.ranks[2]
    ]
    with pytest.raises(ProgramError, match=r"no update takes the gradient of .* from rank 1, mb1"):
        prove(replace(made, ranks=(*made.ranks[:2], tuple(server))))


def test_an_order_that_cannot_be_is_refused():
    """Worker 0 waits for worker 1 under a bound, and nobody pushes twice on one pull."""
    bounded = plan_of("async", dp=2, global_batch=2, staleness_bound=1)
    message = "update 2 cannot come from worker 0, which has no weights then: .* at work \\(1\\)"
    with pytest.raises(ProgramError, match=message):
        program(bounded, [0, 0, 0, 1])
    assert [u.version for u in in_order([0, 0, 1, 0], 2, bound=1)] == [0, 1, 0, 3]


def test_the_beginning_of_a_run_is_the_beginning_of_its_program():
    """Up to which update a gradient will become, which nobody knows before."""
    plan = plan_of("async", dp=3, global_batch=3, staleness_bound=2)
    order = server_step.predicted_order(plan.but(speeds="1,1,3"), 12)
    whole = server_step.asynchronous(plan, order)
    for known in range(13):
        begun = server_step.asynchronous(plan, order[:known], total=12)
        for ours, all_of_it in zip(begun.ranks, whole.ranks, strict=True):
            for one, other in zip(ours, all_of_it, strict=False):
                assert one == (other if one.mb is not None else replace(other, mb=None))

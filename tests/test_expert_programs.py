"""Steps in which tokens travel: legal, proved, and every message where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.assemble import program as program_of
from parallel_core.check import check
from parallel_core.ledger import predicted_counts
from parallel_core.pieces import held_pieces, pieces
from parallel_core.pipeline import SCHEDULES
from parallel_core.plan import Plan, PlanError
from parallel_core.program import Instr, Lane, Op, Program, ProgramError
from parallel_core.prove import prove
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.sizes import value_bytes

TINY: dict[str, Any] = {"hidden": 32, "heads": 4, "vocab": 64, "layers": 4, "experts": 8, "seq": 16}
PAIRED = {"pp": 2, "dp": 2, "ep": 2, "microbatches": 4, "global_batch": 8}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Experts shared out over every layout that takes them."""
    dp, cp, tp = (draw(st.sampled_from([1, 2])) for _ in range(3))
    fits = [ep for ep in (1, 2, 4) if dp * cp % ep == 0]
    pp = draw(st.sampled_from([1, 1, 2, 4]))
    more: dict[str, Any] = {"ep": draw(st.sampled_from(fits))}
    m = draw(st.sampled_from([1, 2]))
    if pp > 1:
        more["schedule"] = draw(st.sampled_from([*SCHEDULES]))
        m = 2 * pp
    if tp > 1:
        more["sp"] = draw(st.booleans())
    stale = pp > 1 and SCHEDULES[more["schedule"]].asynchronous
    one, once = [{}, {"balance": "aux"}], [{"balance": "bias"}, {"clip": 1.0}]
    more |= draw(st.sampled_from(one if stale else one + once))
    kinds = [{}, {"router": "capacity"}]
    more |= draw(st.sampled_from(kinds if stale else [*kinds, {"tied": True}]))
    layers = 8 if pp > 1 else 2
    return Plan.of(
        **{**TINY, "layers": layers}, dp=dp, cp=cp, tp=tp, pp=pp, microbatches=m,
        global_batch=dp * m, **more,
    )  # fmt: skip


@given(plans())
@settings(max_examples=60, deadline=None)
def test_every_program_is_legal_proved_and_simulated(plan):
    """No deadlock, every gradient summed once over those that hold its weights; text and back."""
    program = program_of(plan)
    check(program)
    assert prove(program)
    assert Program.parse(str(program)) == program
    trace = simulate(program, model_cost(plan))
    assert len(trace.spans) == sum(map(len, program.ranks))


@given(plans())
@settings(max_examples=40, deadline=None)
def test_tokens_travel_four_times_a_layer_and_microbatch(plan):
    """There and back, forward and backward, on a lane of their own, behind the counts; and not at
    all where each rank has all experts."""
    program = program_of(plan)
    for rank, instrs in enumerate(program.ranks):
        found = [i for i in instrs if i.op == Op.ALL_TO_ALL]
        if plan.ep == 1:
            assert not found
            continue
        assert {(i.lane, i.axis) for i in found} == {(Lane.TOKENS, "ep")}
        every = pieces(plan)
        runs = [i for i in instrs if i.op in (Op.F, Op.B, Op.I)]
        mine = {u for u in held_pieces(plan, rank) if every[u].holds_experts}
        tasks = sum(every[u].name == i.where for u in mine for i in runs)
        assert len(found) == 2 * tasks
        assert {i.where.partition(".")[2] for i in found} == {"dispatch", "combine"}


@given(plans())
@settings(max_examples=20, deadline=None)
def test_the_members_of_a_group_meet_in_one_order(plan):
    """All ranks of an ep group have the same all-to-alls, one after another."""
    program = program_of(plan)
    for group in plan.mesh.groups("ep") if plan.ep > 1 else ():
        lists = [
            [(i.where, i.mb, i.reads) for i in program.ranks[r] if i.op == Op.ALL_TO_ALL]
            for r in group
        ]
        assert all(one == other for one, other in pairwise(lists))


def test_bytes_are_those_of_rows_there_and_back():
    """Even loads: k rows a token, 4 messages of D elements each, and E counts ahead of them."""
    plan = Plan.of(**TINY, dp=4, ep=4, global_batch=8, top_k=2, dtype="bfloat16")
    messages, total = predicted_counts(program_of(plan), value_bytes(plan), 1)[0][
        "ep", "all_to_all"
    ]
    rows = plan.tokens_here * 2
    assert messages == 5 * plan.model.layers
    assert total == plan.model.layers * (4 * rows * plan.model.hidden * 2 + 8 * 8)


# ---------------------------------------------------------------------------- pairs


def beside(plan: Plan) -> int:
    """All-to-alls of one rank's step with another microbatch's compute between them and whoever
    reads what they bring."""
    found = 0
    instrs = program_of(plan).ranks[0]
    for at, message in enumerate(instrs):
        if message.op != Op.ALL_TO_ALL:
            continue
        reader = next(i for i in range(at, len(instrs)) if message.writes[0] in instrs[i].reads)
        found += any(
            i.mb != message.mb and i.op in (Op.F, Op.B, Op.I) for i in instrs[at + 1 : reader]
        )
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_only_paired_tasks_hide_tokens(name):
    """DualPipe's F and B of two microbatches take turns piece by piece; nobody else's do."""
    plan = Plan.of(**TINY | PAIRED, schedule=name)
    assert (beside(plan) > 0) is SCHEDULES[name].pairs


def test_pairs_make_a_modelled_step_shorter():
    """The same DualPipe, its tasks taken apart again, waits for tokens it could have hidden."""
    plan = Plan.of(**TINY | PAIRED, schedule="dualpipe")
    paired = simulate(program_of(plan), model_cost(plan)).makespan
    with patch.object(Plan, "pairs_tasks", False):
        apart = simulate(program_of(plan), model_cost(plan)).makespan
    assert paired < apart


# ---------------------------------------------------------------------------- faults


def edited(program: Program, edit: Callable[[Instr], Instr | None], rank: int = 0) -> Program:
    made = [edit(i) for i in program.ranks[rank]]
    ranks = [*program.ranks]
    ranks[rank] = tuple(i for i in made if i is not None)
    return replace(program, ranks=tuple(ranks))


def first(program: Program, op: Op) -> Instr:
    return next(i for i in program.ranks[0] if i.op == op)


def test_a_dispatch_left_out_is_named():
    """What a rank's experts should have read never comes."""
    program = program_of(Plan.of(**TINY, dp=2, ep=2))
    check(program)
    gone = first(program, Op.ALL_TO_ALL)
    with pytest.raises(ProgramError, match=r"rank 0.*(act|rows)"):
        check(edited(program, lambda i: None if i is gone else i))


def test_a_rank_without_a_message_of_its_group_is_named():
    """Though it would have no rows to send: the others wait for it."""
    program = program_of(Plan.of(**TINY, dp=2, ep=2))
    last = [i for i in program.ranks[1] if i.op == Op.ALL_TO_ALL][-1]
    held = replace(last, op=Op.ADD, lane=Lane.COMPUTE, axis=None)
    with pytest.raises(ProgramError, match="rank"):
        check(edited(program, lambda i: held if i is last else i, rank=1))


def test_a_gradient_of_experts_summed_over_all_of_dp_is_named():
    """Other ranks hold other experts: a sum over them is of what does not belong together."""
    program = program_of(Plan.of(**TINY, dp=4, ep=2))
    assert prove(program)
    ranks = tuple(
        tuple(replace(i, axis="dp") if i.axis == "edp" else i for i in instrs)
        for instrs in program.ranks
    )
    with pytest.raises(ProgramError, match=r"layer\d.experts from rank \d.* other weights"):
        prove(replace(program, ranks=ranks))


def test_a_gradient_of_experts_that_is_not_summed_is_named():
    """Two ranks hold the same experts, and each has seen half of the tokens."""
    program = program_of(Plan.of(**TINY, dp=4, ep=2))

    def alone(instr: Instr) -> Instr:
        return replace(instr, axis="ep") if instr.axis == "edp" else instr

    ranks = tuple(tuple(map(alone, instrs)) for instrs in program.ranks)
    with pytest.raises(ProgramError, match=r"layer\d.experts from rank \d.*0 times; once"):
        prove(replace(program, ranks=ranks))


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wrong", "field", "nearest"),
    [
        ({"ep": 2, "dp": 2}, "ep", 1),
        ({"experts": 1}, "experts", 2),
        ({"experts": 4, "top_k": 8}, "top_k", 4),
        ({"experts": 8, "dp": 2, "ep": 4}, "ep", 2),
        ({"experts": 6, "dp": 4, "ep": 4}, "ep", 2),
        ({"experts": 8, "pp": 2, "schedule": "pipedream", "balance": "bias"}, "balance", "none"),
        ({"experts": 8, "router": "expert-choice", "balance": "aux"}, "balance", "none"),
        ({"experts": 8, "expert_groups": 3}, "expert_groups", 2),
        ({"experts": 8, "top_k": 4, "expert_groups": 4, "group_limit": 1}, "group_limit", 2),
        ({"experts": 8, "group_limit": 2}, "group_limit", None),
        ({"top_k": 1}, "top_k", 2),
        ({"skew": 1.0}, "skew", 0.0),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(wrong, field, nearest):
    with pytest.raises(PlanError) as error:
        Plan.of(**wrong)
    assert error.value.field == field
    assert error.value.nearest == (nearest if nearest is not None else "none")
    Plan.of(**{**wrong, field: nearest})

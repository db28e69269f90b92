"""A tied table where a pipeline's state is shared out: one block, cut alike at both ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_experts_live import TINY, run_all

from parallel_core import values as v
from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.data.blocks import blocks, held_blocks
from parallel_core.params import param_specs
from parallel_core.pieces import TABLE, weights_of
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program, ProgramError
from parallel_core.prove import prove

DENSE: dict[str, Any] = {**TINY, "experts": 0, "pp": 2, "tied": True, "layers": 4}
SCHEDULES = ["1f1b", "interleaved", "zb-h1", "zb-v", "dualpipe", "dualpipe-v"]


@settings(max_examples=40, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    zero=st.sampled_from([1, 2, 3]),
    dialect=st.sampled_from(["gpt", "llama"]),
    more=st.sampled_from(
        [
            {},
            {"tp": 2},
            {"dp": 4, "shard": 2},
            {"cp": 2},
            {"clip": 0.1},
            {"stage_layers": "0,4", "schedule": "1f1b"},
        ]
    ),
    experts=st.booleans(),
)
def test_every_gradient_of_a_tied_table_is_summed_once(schedule, zero, dialect, more, experts):
    """Lookups' and head's, of every microbatch and replica, at both ends; the parameters are those
    of the model, and the table's shards are as long at either end."""
    choice = {"dp": 2, "zero": zero, "schedule": schedule, "dialect": dialect, "microbatches": 4}
    routed = {"experts": 4, "ep": 2} if experts else {}
    plan = Plan.of(**{**DENSE, "global_batch": 16, **choice, **more, **routed})
    program = program_of(plan)
    check(program)
    assert prove(program)
    assert Program.parse(str(program)) == program
    units = [u for block in blocks(plan) for u in block.units]
    assert units.count(TABLE) == 1
    names = [spec.name for u in units for spec in weights_of(plan, u)]
    assert sorted(names) == sorted(spec.name for spec in param_specs(plan))
    table = next(b for b, block in enumerate(blocks(plan)) if TABLE in block.units)
    holders = {plan.mesh.coordinate(r)["pp"] for r in range(plan.world_size)
               if table in held_blocks(plan, r)}  # fmt: skip
    last = plan.pipeline.stages - 1
    assert holders == {at for at, held in enumerate(plan.pipeline.held) if {0, last} & {*held}}


def _own_alone(instrs: tuple[Instr, ...]) -> tuple[Instr, ...]:
    """A rank that keeps its own shard of the table's gradient, and hears nothing of the other."""
    add = next(i for i in instrs if i.op == Op.ADD and v.came(TABLE) in i.reads)
    names = {v.gall(TABLE): add.reads[0]}
    kept = (i for i in instrs if not (i.where == "table" and (i.op in (Op.SEND, Op.RECV))))
    return tuple(
        replace(
            i,
            reads=tuple(names.get(x, x) for x in i.reads),
            frees=tuple(names.get(x, x) for x in i.frees),
        )
        for i in kept
        if i is not add
    )


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_an_end_that_hears_nothing_of_the_other_is_named(zero):
    """The head's share of the gradient never comes to the lookups' end, nor the other way."""
    plan = Plan.of(**DENSE | {"dp": 2, "zero": zero, "microbatches": 2})
    program = program_of(plan)
    faulty = replace(program, ranks=tuple(map(_own_alone, program.ranks)))
    check(faulty)
    with pytest.raises(ProgramError, match=r"gradient of stage\d .* 0 times; once is right"):
        prove(faulty)


LIVE: list[dict[str, Any]] = [
    {"zero": 1, "microbatches": 4, "schedule": "zb-h1", "dialect": "gpt"},
    {"zero": 1, "microbatches": 2, "stage_layers": "0,4", "dialect": "llama"},
    {"zero": 2, "microbatches": 4, "schedule": "dualpipe", "clip": 0.05},
    {"zero": 3, "microbatches": 4, "schedule": "zb-v", "dialect": "gpt"},
    {"zero": 3, "microbatches": 2, "experts": 4, "ep": 2, "clip": 0.05},
]


@pytest.mark.live
def test_both_ends_train_as_one_process(pool):
    """Gradients, norm and weights of 3 steps; bytes on the wire and in memory as predicted."""
    for ran in run_all(pool, [Plan.of(**DENSE | {"dp": 2} | more) for more in LIVE]):
        assert ran.report["parity"]["max_rel_error"] <= 1e-10, ran.plan
        book = ran.report["ledger"]
        assert book["wire"]["predicted"] == book["wire"]["measured"], ran.plan
        for kind in ("params", "grads", "optimizer"):
            assert book["memory"]["predicted"][kind] == book["memory"]["measured"][kind], ran.plan

"""A sequence cut over ranks trains as one process does: every method, and beside other axes."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_runs import run_all

from parallel_core.assemble import program as program_of
from parallel_core.check import check
from parallel_core.context import METHODS
from parallel_core.cost import Link
from parallel_core.ledger import predicted_counts
from parallel_core.plan import Plan, PlanError
from parallel_core.program import Op, Program
from parallel_core.prove import prove
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.sizes import value_bytes

TINY: dict[str, Any] = {"hidden": 32, "heads": 4, "vocab": 64, "layers": 2, "global_batch": 4}
MODELS: list[dict[str, Any]] = [
    {"dialect": "llama", "kv_heads": 2},
    {"dialect": "llama", "kv_heads": 1, "tied": True},
    {"dialect": "gpt"},
]


def plans(world: int) -> list[Plan]:
    """Every method, with lengths that divide and lengths that do not, alone and with others."""
    made = []
    for number, name in enumerate(METHODS):
        layouts = {
            2: [{"cp": 2}, {"cp": 2, "microbatches": 2, "clip": 0.05}],
            4: [{"cp": 4}, {"cp": 2, "dp": 2}, {"cp": 2, "tp": 2, "sp": True}],
        }[world]
        for layout, seq in zip(layouts, (16, 19, 16), strict=False):
            model = MODELS[(number + len(made)) % len(MODELS)]
            more = {"optimizer": "sgd"} if seq == 16 else {"optimizer": "adamw"}
            made.append(
                Plan.of(**TINY, **model, **layout, **more, seq=seq, cp_method=name, dtype="float64")
            )
    return made


def dropping(world: int) -> list[Plan]:
    """Every method with dropout, which must fall where it does in one process: alone, beside other
    axes, and where attention is computed again."""
    others: list[dict[str, Any]] = [{}, {"recompute": "selective"}]
    if world == 4:
        others = [{"dp": 2, "recompute": "full"}, {"tp": 2}, {"cp": 4, "recompute": "selective"}]
    common = {**TINY, "dialect": "gpt", "dropout": 0.2, "dtype": "float64", "optimizer": "sgd"}
    made = []
    for number, name in enumerate(METHODS):
        more = {"cp": 2, **others[number % len(others)]}
        if name == "hybrid" and world == 4:
            more = {"cp": 4}  # two rings of two
        made.append(Plan.of(**common, **more, cp_method=name, seq=16 + number % 2))
    return made


@pytest.mark.live
@pytest.mark.parametrize("world", [2, 4])
def test_a_run_equals_one_process_and_its_ledger(world, pool):
    """Three steps: loss, norm, gradients and weights in float64 to 1e-10; every byte as predicted,
    in messages, in memory and in what a forward keeps; inside each task the messages it names."""
    for ran in run_all(pool, [*plans(world), *dropping(world)]):
        name = (ran.plan.layout, ran.plan.model, ran.plan.seq)
        assert ran.parity["max_rel_error"] < 1e-10, name
        wire, memory = ran.ledger["wire"], ran.ledger["memory"]
        assert wire["predicted"] == wire["measured"], name
        assert memory["predicted"] == memory["measured"], name
        assert memory["peak"] == memory["predicted_peak"], name
        assert ran.ledger["activations"]["differences"] == [], name
        assert ran.ledger["comm_buffers"]["measured"] == [0] * world, name
        size = value_bytes(ran.plan)
        for span in (s for spans in ran.spans for s in spans if not ran.instr(s).op.is_message):
            assert [row[:4] for row in span.inside] == [
                (m.op.value, m.axis, str(m.value), size(m.value)) for m in ran.instr(span).inner
            ], (name, span.label)


@pytest.mark.live
@pytest.mark.parametrize(
    "more",
    [
        {"zero": 1},
        {"zero": 3, "recompute": "full"},
        {"recompute": "selective", "offload": True},
        {"recompute": "full", "overlap_cp": False},
    ],
    ids=str,
)
def test_sharding_recomputing_and_offloading_go_with_it(more, pool):
    plan = Plan.of(**TINY, cp=2, seq=16, dtype="float64", **more)
    args = {"plan": plan.flat(), "steps": 2}
    with pool.start("parallel_core.runtime:train", 2, args) as run:
        first, *_ = run.wait()
    assert first["parity"]["max_rel_error"] < 1e-10


layouts = st.builds(
    lambda name, cp, others, seq, m: Plan.of(
        cp=cp, cp_method=name, seq=seq, microbatches=m, global_batch=4 * m, layers=2, **others
    ),
    st.sampled_from(list(METHODS)),
    st.sampled_from([2, 4]),
    st.sampled_from(
        [{}, {"dp": 2}, {"recompute": "selective"}, {"recompute": "full"}, {"zero": 2}]
    ),
    st.sampled_from([32, 37]),
    st.sampled_from([1, 2]),
)


@given(layouts)
@settings(max_examples=60, deadline=None)
def test_every_program_is_legal_and_proved(plan):
    """Ranks meet inside their tasks; every gradient is summed over all that hold a part of it."""
    program = program_of(plan)
    check(program)
    assert prove(program)
    assert Program.parse(str(program)) == program
    trace = simulate(program, model_cost(plan))
    assert len(trace.spans) == sum(map(len, program.ranks))
    for span in trace.spans:
        instr = program.ranks[span.rank][span.index]
        assert len(span.inside) == (0 if instr.op.is_message else len(instr.inner))


@pytest.mark.parametrize(("method", "op"), [("ring", Op.SHIFT), ("allgather", Op.ALL_GATHER)])
def test_recomputation_sends_the_keys_once_more(method, op):
    plan = Plan.of(cp=4, cp_method=method, layers=2)

    def sent(chosen: Plan) -> int:
        counts = predicted_counts(program_of(chosen), value_bytes(chosen), 1)[0]
        return counts["cp", op.value][0]

    none, again = sent(plan), sent(plan.but(recompute="full"))
    ahead = {"ring": 2 * 3, "allgather": 2 * 1}[method]  # hops, or gathers, of two layers
    assert again == none + ahead == sent(plan.but(recompute="selective"))


def test_a_zigzag_step_is_shorter_than_a_contiguous_one_where_attention_counts():
    """Modelled: ranks wait for the slowest at every hop, and zigzag has no slowest."""
    long = Plan.of(cp=4, seq=1 << 16, global_batch=1, layers=1, hidden=64, vocab=256)
    free = Link(alpha=0.0, beta=1e15)
    spans = {}
    for name in ("ring", "zigzag"):
        chosen = long.but(cp_method=name)
        trace = simulate(program_of(chosen), model_cost(chosen, link=free))
        spans[name] = [
            next(s for s in row if s.label == "F layer0 mb0").cpu_ns for row in trace.by_rank
        ]
    mean = sum(spans["zigzag"]) / 4
    assert max(spans["zigzag"]) - min(spans["zigzag"]) < 100
    assert sum(spans["ring"]) == pytest.approx(4 * mean, rel=1e-6)
    found = [span / mean for span in spans["ring"]]
    assert found == pytest.approx([0.25, 0.75, 1.25, 1.75], abs=0.02)  # where attention is all


@pytest.mark.parametrize(
    ("wrong", "field", "nearest"),
    [
        ({"cp_method": "ring"}, "cp_method", "zigzag"),
        ({"cp": 2, "attention": "unfused"}, "attention", "fused"),
        ({"cp": 8, "cp_method": "ulysses", "heads": 4}, "cp", 4),
        ({"cp": 4, "cp_method": "ring", "ulysses": 2}, "ulysses", "none"),
        ({"cp": 2, "cp_method": "allgather", "overlap_cp": False}, "overlap_cp", True),
        ({"cp": 2, "cp_method": "ulysses", "overlap_cp": False}, "overlap_cp", True),
        ({"cp": 4, "cp_method": "hybrid", "ulysses": 3}, "ulysses", 2),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(wrong, field, nearest):
    with pytest.raises(PlanError) as error:
        Plan.of(**wrong)
    assert (error.value.field, error.value.nearest) == (field, nearest)
    Plan.of(**{**wrong, field: nearest})


def test_every_combination_of_small_degrees_is_a_plan_or_a_sentence():
    for cp, tp, name, kv in product((1, 2, 3, 4, 6), (1, 2), METHODS, (1, 2, 4)):
        try:
            plan = Plan.of(cp=cp, tp=tp, cp_method=name, kv_heads=kv, heads=4)
        except PlanError as error:
            assert str(error).startswith(f"{error.field}=")
        else:
            assert plan.world_size == cp * tp

"""What a model of experts keeps, works and holds: by formula, and as measured, to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from parallel_core import values as v
from parallel_core.activations.held import held_by_piece
from parallel_core.activations.saved import piece_bytes
from parallel_core.kernel_choice import kernels_of
from parallel_core.launch import Pool
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Value
from parallel_core.report import RunView
from parallel_core.resident import activations
from parallel_core.sizes import flops, step_flops, value_bytes

TINY: dict[str, Any] = {
    "layers": 2, "hidden": 16, "heads": 4, "seq": 8, "vocab": 32, "ffn": 32, "experts": 8,
    "global_batch": 8,
}  # fmt: skip
DIALECTS: list[dict[str, Any]] = [
    {"dialect": "gpt", "dropout": 0.1},
    {"dialect": "gpt"},
    {"dialect": "llama"},
    {"dialect": "llama", "attention": "unfused", "kv_heads": 2},
]
DTYPES = ("float64", "float32", "bfloat16")
RECOMPUTE = ("none", "selective", "full")
ROUTERS: list[dict[str, Any]] = [
    {},
    {"top_k": 1, "shared_experts": 2},
    {"router": "capacity", "capacity": 0.75, "z_loss": 0.1},
    {"router": "expert-choice", "z_loss": 0.1, "shared_experts": 1},
    {"score": "sigmoid", "balance": "aux", "z_loss": 0.01, "shared_experts": 1, "skew": 2.0},
    {"balance": "bias", "expert_groups": 4, "group_limit": 2, "top_k": 3, "skew": 40.0},
    {"router": "capacity", "balance": "aux", "capacity": 1.0, "skew": 40.0},
]
"""Routers even and leaning, with and without losses of their own, drops and shared experts."""

ALL_PLACED = [{**r, "capacity": 8.0} if r.get("router") == "capacity" else r for r in ROUTERS]


@pytest.mark.parametrize("dtype, recompute", list(product(DTYPES, RECOMPUTE)))
def test_one_process_keeps_what_the_rows_say(dtype, recompute):
    """Every unit to the byte, where as many rows go as tokens ask for: it needs no run to know."""
    for model, router in product(DIALECTS, ALL_PLACED):
        plan = Plan.of(**TINY, **model, **router, dtype=dtype, recompute=recompute)
        kept = activations(kernels_of(plan)(plan, 0, None, torch.device("cpu")))
        assert kept == {p.name: piece_bytes(plan, p.units) for p in pieces(plan)}, plan


LAYOUTS: dict[int, list[dict[str, Any]]] = {
    1: [
        {"recompute": "selective"},
        {"recompute": "full", "microbatches": 2},
        {"offload": True, "layers": 4},
        {"offload": True, "layers": 4, "recompute": "selective"},
    ],
    2: [
        {"dp": 2, "ep": 2},
        {"dp": 2, "ep": 2, "microbatches": 2, "recompute": "selective"},
        {"dp": 2, "ep": 2, "recompute": "full"},
        {"cp": 2, "ep": 2},
        {"cp": 2, "ep": 2, "seq": 11, "cp_method": "ring"},
        {"cp": 2, "seq": 11},
        {"dp": 2, "zero": 3},
        {"tp": 2},
        {"tp": 2, "sp": True, "recompute": "full"},
        {"pp": 2, "microbatches": 4},
    ],
    4: [
        {"dp": 4, "ep": 4},
        {"dp": 4, "ep": 2, "microbatches": 2},
        {"dp": 2, "ep": 2, "tp": 2, "sp": True},
        {"dp": 2, "ep": 2, "tp": 2, "sp": True, "recompute": "selective"},
        {"dp": 2, "ep": 2, "tp": 2, "sp": True, "recompute": "full"},
        {"dp": 2, "ep": 4, "cp": 2},
        {"dp": 2, "ep": 4, "cp": 2, "recompute": "full", "zero": 2},
        {"cp": 2, "ep": 2, "tp": 2},
        {"dp": 2, "ep": 2, "pp": 2, "schedule": "zb-h1", "microbatches": 4},
        {"dp": 2, "ep": 2, "pp": 2, "schedule": "dualpipe", "microbatches": 4},
    ],
}


def plans(world: int) -> list[Plan]:
    """Every layout with two of the routers, every router with many a layout; dialects and types
    by turns."""
    made = []
    for number, layout in enumerate(layout for layout in LAYOUTS[world] for _ in range(2)):
        router = ROUTERS[number % len(ROUTERS)]
        model = DIALECTS[number % len(DIALECTS)]
        if layout.get("cp"):
            model = {k: v for k, v in model.items() if k not in ("dropout", "attention")}
        made.append(Plan.of(**TINY | model | router | layout, dtype=DTYPES[number % len(DTYPES)]))
    return made


STEPS = 2


@dataclass(frozen=True)
class Ran:
    """One plan as it ran, its report, and what each rank told beside it."""

    plan: Plan
    view: RunView
    report: dict[str, Any]
    told: list[dict[str, Any]]


def run_all(pool: Pool, chosen: Sequence[Plan], **more: Any) -> Iterator[Ran]:
    """Plans of one world size, one after another in the same processes, two steps each."""
    (world,) = {plan.world_size for plan in chosen}
    views, at = [RunView(plan) for plan in chosen], [0] * world
    args = {"plans": [plan.flat() for plan in chosen], "steps": STEPS, **more}
    with pool.start("expert_memory_targets:train_all", world, args) as run:
        for event in run.events():
            if event["event"] == "plan":
                at[event["rank"]] = event["number"]
            else:
                views[at[event.get("rank", 0)]].feed(event)
        by_rank = run.wait(timeout=120)
    for i, (plan, view) in enumerate(zip(chosen, views, strict=True)):
        told = [results[i]["sources"] for results in by_rank]
        yield Ran(plan, view, view.finish([results[i] for results in by_rank]), told)


@pytest.mark.live
@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_run_holds_what_its_routing_makes(world, pool):
    """After every instruction, in every piece, at the peak: to the byte, for the rows that the
    run's routers sent on each rank, in each step and microbatch; nothing stays behind."""
    uneven = 0
    for ran in run_all(pool, plans(world)):
        book, outline = ran.report["ledger"], ran.report["outline"]
        kept, memory = book["activations"], book["memory"]
        assert kept["differences"] == [], ran.plan
        assert kept["predicted"] == kept["measured"], ran.plan
        assert book["comm_buffers"]["measured"] == [0] * world, ran.plan
        uneven += kept["even"] != kept["predicted"]
        if ran.plan.pp > 1:
            continue
        assert outline["differences"] == [] and outline["equal"], ran.plan
        for kind, sizes in memory["peak"].items():
            allowed = memory["predicted_peak"][kind]
            assert all(a <= b for a, b in zip(sizes, allowed, strict=True)), (ran.plan, kind)
        if ran.plan.recompute == "none" and not ran.plan.zero and not ran.plan.offload:
            assert memory["peak"] == memory["predicted_peak"], ran.plan
    assert uneven or world == 1


SPLIT = {"pp": 2, "schedule": "zb-h1", "microbatches": 4}
HALVED: dict[int, list[dict[str, Any]]] = {
    2: [SPLIT | router for router in ROUTERS],
    4: [
        SPLIT | {"dp": 2, "ep": 2},
        SPLIT | {"dp": 2, "ep": 2, "shared_experts": 1, "skew": 9.0, "dialect": "gpt"},
        SPLIT | {"cp": 2, "ep": 2, "seq": 11},
        SPLIT | {"dp": 2, "ep": 2, "recompute": "full"},
        SPLIT | {"tp": 2, "sp": True, "shared_experts": 1},
        SPLIT | {"tp": 2, "experts": 0},
    ],
}


@pytest.mark.live
@pytest.mark.parametrize("world", [2, 4])
def test_what_waits_for_a_weight_half_is_what_the_rows_say(world, pool):
    """Between I and W, piece by piece, on every rank: to the byte, as the run's tokens went."""
    chosen = [Plan.of(**TINY | more, dtype=DTYPES[i % 3]) for i, more in enumerate(HALVED[world])]
    for ran in run_all(pool, chosen):
        units = {piece.name: piece.units for piece in pieces(ran.plan)}
        loads = ran.view.routing.loads_of()
        found = [(rank, *row) for rank, told in enumerate(ran.told) for row in told["held"]]
        assert found
        for rank, where, mb, size in found:
            routed = loads(rank, STEPS - 1) if loads else None
            assert size == held_by_piece(ran.plan, units[where], routed, mb), (ran.plan, where)


@pytest.mark.live
def test_values_weigh_what_the_program_says(pool):
    """Rows on their way, what arrives of them, what goes past the experts, and their gradients:
    where experts choose, loads are even, and so each weighs what was predicted before the run."""
    even = {"router": "expert-choice", "dp": 2, "ep": 2}
    more = [{}, {"shared_experts": 1, "dtype": "bfloat16", "dialect": "gpt"}, {"microbatches": 2}]
    for ran in run_all(pool, [Plan.of(**TINY | even | each) for each in more]):
        size = value_bytes(ran.plan)
        for told in ran.told:
            names = {row[0] for row in told["values"]}
            assert names == {"act", "dact", "rows", "drows", "skip", "dskip"}
            for name, mb, u, weighs in told["values"]:
                if name != "dact" or u >= 0:
                    assert weighs == size(Value(name, (mb, u))), (ran.plan, name, u)


@pytest.mark.parametrize("router", ALL_PLACED, ids=str)
def test_a_forward_takes_the_operations_that_are_counted(router):
    """Matrix products of a layer as torch counts them: experts by the rows that go to them."""
    plan = Plan.of(**TINY | router, attention="unfused")
    kernels = kernels_of(plan)(plan, 0, None, torch.device("cpu"))
    count, reads = flops(plan), kernels.load(0)
    x = torch.randn(plan.rows_per_microbatch, plan.seq, plan.model.hidden)
    with FlopCounterMode(display=False) as seen:
        instr = Instr(op=Op.F, where="layer0", mb=0)
        kernels.forward(instr, reads | {v.act(0, 0): x})
    assert seen.get_total_flops() == count(instr)


@given(
    ep=st.sampled_from([1, 2, 4]),
    router=st.sampled_from(ROUTERS),
    tp=st.sampled_from([1, 2]),
    recompute=st.sampled_from(["none", "selective"]),
)
def test_sharing_out_experts_adds_no_work(ep, router, tp, recompute):
    """A step's FLOPs over all ranks are those of one process, whoever holds the experts; all but
    what each tensor-parallel rank does of the routers."""
    plan = Plan.of(**TINY | router, dp=4, ep=ep, tp=tp, recompute=recompute)
    m = plan.model
    routers = 6.0 * m.layers * m.hidden * m.experts * plan.tokens_per_step
    alone = step_flops(plan.single().but(recompute=recompute))
    assert step_flops(plan) == pytest.approx(alone + (tp - 1) * routers, rel=1e-12)


@pytest.mark.live
def test_rows_kept_twice_are_seen(pool):
    """A planted fault: each rank's experts keep a second copy of the rows that came to them."""
    plan = Plan.of(**TINY, dp=2, ep=2, dtype="float64")
    (ran,) = run_all(pool, [plan], fault="rows")
    found = ran.report["ledger"]["activations"]["differences"]
    assert {(d["unit"], d["rank"]) for d in found} == {
        (f"layer{i}.experts", rank) for i, rank in product(range(2), range(2))
    }
    rows = 2 * plan.global_batch * plan.seq * plan.model.hidden * 8  # of all ranks in a layer
    assert sum(d["bytes"] for d in found) == plan.model.layers * rows
    assert ran.report["outline"]["differences"]

"""What a model of experts keeps, works and holds: by formula, and as measured, to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch

from parallel_core.activations.saved import piece_bytes
from parallel_core.launch import Pool
from parallel_core.params import pieces
from parallel_core.plan import Plan
from parallel_core.report import RunView
from parallel_core.runtime import activations, kernels_of

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
        {"dp": 2, "ep": 4, "cp": 2},
        {"cp": 2, "ep": 2, "tp": 2},
        {"dp": 2, "ep": 2, "pp": 2, "schedule": "zb-h1", "microbatches": 4},
        {"dp": 2, "ep": 2, "pp": 2, "schedule": "dualpipe", "microbatches": 4},
    ],
}


def plans(world: int) -> list[Plan]:
    """Every layout with every router; dialects and types by turns."""
    made = []
    for number, (layout, router) in enumerate(product(LAYOUTS[world], ROUTERS)):
        model = DIALECTS[number % len(DIALECTS)]
        if layout.get("cp"):
            model = {k: v for k, v in model.items() if k not in ("dropout", "attention")}
        made.append(Plan.of(**TINY | model | router | layout, dtype=DTYPES[number % len(DTYPES)]))
    return made


@dataclass(frozen=True)
class Ran:
    """One plan as it ran, and its report."""

    plan: Plan
    report: dict[str, Any]


def run_all(pool: Pool, chosen: Sequence[Plan], **more: Any) -> Iterator[Ran]:
    """Plans of one world size, one after another in the same processes, two steps each."""
    (world,) = {plan.world_size for plan in chosen}
    views, at = [RunView(plan) for plan in chosen], [0] * world
    args = {"plans": [plan.flat() for plan in chosen], "steps": 2, **more}
    with pool.start("expert_memory_targets:train_all", world, args) as run:
        for event in run.events():
            if event["event"] == "plan":
                at[event["rank"]] = event["number"]
            else:
                views[at[event.get("rank", 0)]].feed(event)
        by_rank = run.wait(timeout=120)
    for i, (plan, view) in enumerate(zip(chosen, views, strict=True)):
        yield Ran(plan, view.finish([results[i] for results in by_rank]))


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


@pytest.mark.live
def test_rows_kept_twice_are_seen(pool):
    """A planted fault: each rank's experts keep a second copy of the rows that came to them."""
    plan = Plan.of(**TINY, dp=2, ep=2, dtype="float64", skew=1.0)
    (ran,) = run_all(pool, [plan], fault="rows")
    found = ran.report["ledger"]["activations"]["differences"]
    assert {(d["unit"], d["rank"]) for d in found} == {
        (f"layer{i}.experts", rank) for i, rank in product(range(2), range(2))
    }
    rows = 2 * plan.global_batch * plan.seq * plan.model.hidden * 8  # of all ranks in a layer
    assert sum(d["bytes"] for d in found) == plan.model.layers * rows
    assert ran.report["outline"]["differences"]

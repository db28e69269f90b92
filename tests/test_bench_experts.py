"""The bench of experts compares like with like. Nothing is timed here: how fast is a matter of the
machine, that all sides computed the same and sent what they say is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from parallel_core.bench import experts, experts_gpu
from parallel_core.bench.context_rows import order
from parallel_core.bench.dp import Disagreement
from parallel_core.bench.experts_rows import (
    ALL_TO_ALL,
    GATHER,
    GPU_SIDES,
    GROUPED,
    LOOP,
    MASKS,
    ONE_KERNEL,
    PRODUCTS,
    SIDES,
    gpu_rows,
    name_of,
    rows_of,
)
from parallel_core.cli import bench_command
from parallel_core.fields import PlanError
from parallel_core.plan import Plan

TINY = {"experts": 8, "hidden": 16, "ffn": 16, "heads": 2, "seq": 16, "vocab": 32}
QUICK = experts.Race(rounds=1, warmup=1)
SECONDS = {ALL_TO_ALL: 0.2, GATHER: 0.3, GROUPED: 0.5, LOOP: 0.6}


def silent(text: str) -> None:
    """A bench's progress, unheard."""


def blocks(of: dict[str, float], *, cpu: float) -> list[dict[str, Any]]:
    """Eight rounds in which every side takes as long each time."""
    return [
        {"round": n, "side": side, "steps": 1, "seconds": of[side], "cpu": cpu * of[side]}
        for n in range(8)
        for side in order(tuple(of), n)
    ]


# -- the arithmetic ------------------------------------------------------------------------------


def test_rows_are_ours_over_theirs_on_the_slowest_rank():
    """One rank is the slower by the wall, the other by its processor; each clock has its own."""
    half = {side: s / 2 for side, s in SECONDS.items()}
    told = [{"blocks": blocks(SECONDS, cpu=0.1)}, {"blocks": blocks(half, cpu=1.0)}]
    plan = experts.plans_of(**TINY, ep=2, top_k=2, skew=0.0)[0]
    rows, case = rows_of(plan, told), "2 ranks, 64 tokens, top 2, even"
    assert rows[f"{case}: all-to-all / all-gather"].median == pytest.approx(1.5)
    assert rows[f"{case}: grouped / plain loop: own device"].median == pytest.approx(1.2)
    assert rows[f"{case}: all-to-all"].median == pytest.approx(200)
    assert rows[f"{case}: all-to-all, own device"].median == pytest.approx(100)


def test_gpu_rows_are_one_kernel_over_the_others():
    of = {ONE_KERNEL: 0.01, PRODUCTS: 0.02, MASKS: 0.04}
    rows = gpu_rows({"device": "G", "cases": [{"name": "c", "blocks": blocks(of, cpu=0.0)}]})
    assert rows["GPU, c: one kernel / a mask an expert"].median == pytest.approx(4)
    assert rows["GPU, c: one kernel / one product an expert"].median == pytest.approx(2)
    assert gpu_rows({"device": None, "cases": []}) == {}


def test_a_plain_loop_that_is_faster_is_said():
    """The whole interval below 1 is a doubt; one that reaches 1 is none."""
    plan = experts.plans_of(**TINY, ep=2, top_k=2, skew=0.0)[0]
    for loop, doubted in ((0.6, False), (0.5, False), (0.4, True)):
        told = [{"blocks": blocks({**SECONDS, LOOP: loop}, cpu=1.0)}]
        said = list(experts._doubts(rows_of(plan, told)))
        assert any("the plain loop is faster" in each for each in said) == doubted


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_all_to_all_sends_k_over_r_of_all_gather(ranks):
    """Rows alone, experts chosen evenly: k (R-1)/R copies of a token against R-1."""
    for k in (1, 2, ranks):
        plan = experts.plans_of(**TINY, ep=ranks, global_batch=8, top_k=k, skew=0.0)[0]
        counts, gates = 8 * 8 * (ranks - 1) / ranks, 2 * 4 * 8 * (ranks - 1) * 8 * 16 // ranks
        rows = experts.even_bytes(plan) - counts, experts.gathered_bytes(plan) - gates
        assert rows[0] / rows[1] == pytest.approx(k / ranks)


def test_a_given_field_is_not_swept():
    """Everything free: every combination; a field given: its one value, and no name twice."""
    every = experts.plans_of()
    assert len(every) == 16 and {plan.ep for plan in every} == {2, 4}
    some = experts.plans_of(ep=4, top_k=1)
    assert {(plan.ep, plan.dp, plan.model.top_k) for plan in some} == {(4, 4, 1)}
    assert len({name_of(plan) for plan in some}) == len(some) == 4
    assert {plan.ep for plan in experts.plans_of(dp=2)} == {2}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ep": 1},
        {"dp": 4, "ep": 2},
        {"tp": 2},
        {"zero": 1},
        {"shared_experts": 1},
        {"balance": "aux"},
        {"z_loss": 0.1},
        {"dtype": "float64"},
        {"global_batch": 3},
    ],
)
def test_what_sides_cannot_all_do_is_refused(wrong):
    with pytest.raises(PlanError, match=next(iter(wrong))):
        experts.plans_of(**wrong)


def test_asking_loads_no_torch():
    code = "import sys, parallel_core.bench.experts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what a GPU would compare --------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["llama", "gpt"])
def test_the_sides_of_a_gpu_compute_the_same(dialect):
    """On this machine's processor, in float64: y, dx, the router's gradient and the experts'."""
    plan = Plan.of(**TINY, dialect=dialect, top_k=3, global_batch=2, skew=1.0)
    sides = experts_gpu.sides_of(plan, torch.device("cpu"), torch.float64)
    assert set(sides) == set(GPU_SIDES)
    kernel, products, masks = (sides[name].step() for name in GPU_SIDES)
    torch.testing.assert_close(kernel, products)
    torch.testing.assert_close(kernel[:3], masks[:3])
    stacks = [torch.stack(masks[3 + i : 11 + i]) for i in range(0, len(masks) - 3, 8)]
    torch.testing.assert_close(kernel[3:], stacks)


# -- on real ranks -------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.parametrize("ranks", [2, 4])
def test_all_sides_compute_the_same_and_send_what_they_say(on_ranks, ranks):
    """Every router, even and so skewed that ranks have nothing: equal to the plain loop, bytes
    equal to the messages' own book, and all-gather's to the formula."""
    ways = [
        {"router": "dropless", "skew": 0.0},
        {"router": "dropless", "skew": 30.0, "top_k": 1},
        {"router": "capacity", "capacity": 1.0, "skew": 1.0},
        {"router": "expert-choice", "dialect": "gpt"},
        {"score": "sigmoid", "top_k": 8, "skew": 0.0},
    ]
    plans = [
        experts.plans_of(**{**TINY, "ep": ranks, "top_k": 2, "skew": 0.5, **w})[0] for w in ways
    ]
    told = on_ranks(ranks, "experts_bench_targets:compared", plans=[p.flat() for p in plans])
    for number, plan in enumerate(plans):
        case = [each[number] for each in told]
        assert all(max(each["apart"].values()) < 5e-6 for each in case)
        for each in case:
            assert each["sent"][GATHER] == experts.gathered_bytes(plan) == each["booked"][GATHER]
        inside = sum(each["booked"]["rows"] - each["sent"][ALL_TO_ALL] for each in case)
        assert inside >= 0
        if plan.model.top_k == plan.model.experts:  # every expert of every token: no luck in it
            assert {each["sent"][ALL_TO_ALL] for each in case} == {experts.even_bytes(plan)}
        if plan.model.skew == 30.0:
            assert case[0]["rank_loads"] == [plan.tokens_per_step] + [0] * (ranks - 1)


@pytest.mark.live
def test_ep_prints_one_json_object():
    """`shardlab bench ep --ep 2 --top-k 2 --json`: rows by case, bytes, what to know."""
    flags = [f"--{key}={value}" for key, value in TINY.items() if key != "vocab"]
    words = ["ep", "--ep=2", "--top-k=2", "--rounds=1", *flags, "--json"]
    done = CliRunner().invoke(bench_command.command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["bench"] == "ep" and len(report["settings"]["cases"]) == 2
    for case in report["settings"]["cases"]:
        assert set(case["bytes_sent"]) == {ALL_TO_ALL, GATHER}
        assert all(f"{case['name']}: {side}" in report["rows"] for side in SIDES)
        assert any(note.startswith(case["name"]) for note in report["notes"])
    assert all(row["median"] > 0 for row in report["rows"].values())
    assert report["settings"]["threads_a_rank"] == 1
    assert any("rounds cannot bear" in warning for warning in report["warnings"])


@pytest.mark.live
@pytest.mark.parametrize(
    ("target", "sentence"),
    [("shuffled", "all-to-all is .* from the plain loop"), ("miscounted", "all-gather sent")],
)
def test_a_side_that_is_wrong_is_noticed(monkeypatch, target, sentence):
    """Planted faults: rows in another order, and bytes that nobody counted."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(experts, "TARGET", f"experts_bench_targets:{target}")
    with pytest.raises(Disagreement, match=sentence):
        experts.measure(experts.plans_of(**TINY, ep=2, top_k=2, skew=0.0), QUICK, silent)

"""Experts on real ranks are one process: loss, every gradient, weights, drops, every byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, product
from typing import Any
from unittest.mock import patch

import pytest

from parallel_core import oracle
from parallel_core.analysis.exposed import covered, length, minus
from parallel_core.choices import Balance
from parallel_core.launch import Pool
from parallel_core.plan import Plan
from parallel_core.program import Lane, Op
from parallel_core.replay import fit_link_of
from parallel_core.report import RunView
from parallel_core.text import columns_of, rows_of
from parallel_core.trace import Span, Trace

pytestmark = pytest.mark.live

STEPS = 3
TINY: dict[str, Any] = {
    "hidden": 16, "heads": 4, "seq": 8, "vocab": 32, "layers": 2, "ffn": 16, "dtype": "float64",
    "experts": 8, "global_batch": 8,
}  # fmt: skip
ROUTERS = ("dropless", "capacity", "expert-choice")
SKEWS = (0.0, 60.0)
"""An even router, and one that floods the first rank's experts and starves the last's."""

DRESSES: list[dict[str, Any]] = [
    {"dialect": "llama", "top_k": 2, "balance": "aux", "aux_loss": 0.5, "optimizer": "sgd"},
    {"dialect": "gpt", "top_k": 1, "balance": "bias", "bias_rate": 0.05, "shared_experts": 1},
    {"dialect": "llama", "top_k": 2, "score": "sigmoid", "z_loss": 0.1, "tied": True},
    {"dialect": "gpt", "top_k": 4, "expert_groups": 4, "group_limit": 2, "clip": 0.05},
    {"dialect": "llama", "top_k": 3, "kv_heads": 2, "balance": "aux", "z_loss": 0.1},
]
"""Models that the layouts wear by turns."""

BIASED: dict[str, Any] = {"balance": "bias", "bias_rate": 0.5, "skew": 0.3, "top_k": 2}
"""A router that its bias turns round within the three steps."""

LAYOUTS: dict[int, list[dict[str, Any]]] = {
    1: [{"microbatches": 2}],
    2: [
        {"dp": 2, "ep": 2},
        {"cp": 2, "ep": 2},
        {"dp": 2},
        {"tp": 2},
        {"cp": 2},
        {"pp": 2, "schedule": "zb-h1", "microbatches": 4},
    ],
    4: [
        {"dp": 4, "ep": 4},
        {"dp": 4, "ep": 4, "ep_node": 2},
        {"dp": 4, "ep": 2, "microbatches": 2},
        {"dp": 2, "ep": 2, "tp": 2, "sp": True},
        {"dp": 2, "ep": 2, "tp": 2},
        {"dp": 2, "ep": 4, "cp": 2},
        {"cp": 2, "ep": 2, "tp": 2},
        {"dp": 2, "ep": 2, "pp": 2, "schedule": "1f1b", "microbatches": 4},
        {"dp": 2, "ep": 2, "pp": 2, "schedule": "zb-h1", "microbatches": 4},
        {"dp": 2, "ep": 2, "pp": 2, "schedule": "dualpipe", "microbatches": 4},
        {"cp": 2, "ep": 2, "pp": 2, "schedule": "interleaved", "microbatches": 2},
    ],
    8: [
        {"dp": 4, "ep": 4, "pp": 2, "schedule": "dualpipe", "microbatches": 4},
        {"dp": 2, "ep": 4, "cp": 2, "tp": 2, "sp": True},
    ],
}
every_world = pytest.mark.parametrize("world", [1, 2, 4, pytest.param(8, marks=pytest.mark.slow)])


def plans(world: int, *, every: bool) -> list[Plan]:
    """Every layout with every router, even and skewed; the models by turns.

    A sample has each router once a layout, even or skewed by turns: so both skews with every
    layout, all pairs of router and skew, all models.
    """
    made, turn = [], count()
    layouts, routers, skews = map(enumerate, (LAYOUTS[world], ROUTERS, SKEWS))
    for (at, layout), (i, router), (j, skew) in product(layouts, routers, skews):
        dress = dict(DRESSES[next(turn) % len(DRESSES)])
        if not every and (at + i) % 2 != j:
            continue
        if router == "expert-choice":
            for name in ("balance", "aux_loss", "bias_rate", "expert_groups", "group_limit"):
                dress.pop(name, None)
        if layout.get("pp") and layout["schedule"] == "interleaved":
            layout = {**layout, "layers": 4}
        batch = 4 * layout["microbatches"] if layout.get("pp") else TINY["global_batch"]
        capacity = {"capacity": 1.0} if router == "capacity" else {}
        flat = TINY | dress | layout | capacity | {"global_batch": batch}
        made.append(Plan.of(router=router, skew=skew, **flat))
    for layout in LAYOUTS[world]:  # a bias that moves far, with every layout
        batch = 4 * layout["microbatches"] if layout.get("pp") else TINY["global_batch"]
        layers = {"layers": 4} if layout.get("schedule") == "interleaved" else {}
        flat = TINY | BIASED | layout | layers | {"global_batch": batch}
        made.append(Plan.of(**flat))
    return made


@dataclass(frozen=True)
class Ran:
    """One plan as it ran: its events and its report."""

    plan: Plan
    view: RunView
    report: dict[str, Any]


def run_all(pool: Pool, chosen: Sequence[Plan], steps: int = STEPS, **more: Any) -> list[Ran]:
    """Plans of one world size, one after another in the same processes."""
    (world,) = {plan.world_size for plan in chosen}
    views, at = [RunView(plan) for plan in chosen], [0] * world
    args = {"plans": [plan.flat() for plan in chosen], "steps": steps, **more}
    with pool.start("expert_targets:train_all", world, args) as run:
        for event in run.events():
            if event["event"] == "plan":
                at[event["rank"]] = event["number"]
            else:
                views[at[event.get("rank", 0)]].feed(event)
        by_rank = run.wait(timeout=300)
    return [
        Ran(plan, view, view.finish([results[i] for results in by_rank]))
        for i, (plan, view) in enumerate(zip(chosen, views, strict=True))
    ]


Runs = Callable[[int], list[Ran]]


@pytest.fixture(scope="module")
def runs(pool: Pool, whole_matrix: bool) -> Runs:
    """The runs of a world size, made when first asked for."""

    @lru_cache
    def of(world: int) -> list[Ran]:
        return run_all(pool, plans(world, every=whole_matrix))

    return of


@every_world
def test_a_run_is_one_process(world, runs):
    """Three steps: loss, gradient norm, every gradient, the weights after the third, to 1e-10."""
    for ran in runs(world):
        parity = ran.report["parity"]
        assert parity["counted"] == ["loss", "gradient norm", "gradients", "parameters"]
        assert parity["steps"] == STEPS
        assert parity["max_rel_error"] <= 1e-10, (ran.plan, parity)


@every_world
def test_every_byte_is_as_predicted_from_the_routing(world, runs):
    """Messages of all axes by op, in number and in bytes; the training state; nothing stays."""
    for ran in runs(world):
        book = ran.report["ledger"]
        assert book["wire"]["predicted"] == book["wire"]["measured"], ran.plan
        assert book["control"]["predicted"] == book["control"]["measured"], ran.plan
        assert book["memory"]["predicted"] == book["memory"]["measured"], ran.plan
        assert book["comm_buffers"]["measured"] == [0] * world, ran.plan
        if ran.plan.ep > 1:
            for axis in ("ep",) if ran.plan.ep_node is None else ("ep_in", "ep_out"):
                assert book["wire"]["measured"][axis]["all_to_all"]["wire_bytes"] > 0
        else:
            assert "ep" not in book["wire"]["measured"]


# ---------------------------------------------------------------------------- drops


@dataclass(frozen=True)
class Decided:
    """What one process decided in a step and layer: choices of whole sequences, bool [B, S, E]."""

    asked: Any
    kept: Any


@lru_cache(maxsize=64)
def decisions(plan: Plan) -> list[dict[int, Decided]]:
    """By step and layer, of the oracle's own model, looked at after each of its backwards."""
    found: list[dict[int, Decided]] = []
    backward = oracle._backward

    def looking(model: Any, *args: Any) -> float:
        loss = backward(model, *args)
        found.append(
            {
                int(name.removeprefix("layer")): Decided(
                    moe.routed.choice.asked, moe.routed.choice.kept
                )
                for name, moe in model.routers.items()
            }
        )
        return loss

    with patch.object(oracle, "_backward", looking):
        oracle.train(plan, STEPS)
    return found


@every_world
def test_who_is_dropped_is_who_one_process_drops(world, runs):
    """Expert by expert in every microbatch, step and layer; token by token where a rank tells."""
    lost = 0
    for ran in runs(world):
        truth = decisions(ran.plan.single())
        for row in ran.view.routing.rows:
            right = truth[row.step][row.layer]
            mine = rows_of(ran.plan, ran.plan.batch_place(row.rank), row.mb)
            columns = columns_of(ran.plan, row.rank).positions
            at = [p for p in columns.tolist() if p < ran.plan.seq]
            asked, kept = (x[mine][:, at] for x in (right.asked, right.kept))
            assert row.asked == tuple(asked.sum((0, 1)).tolist()), ran.plan
            assert row.kept == tuple(kept.sum((0, 1)).tolist()), ran.plan
            pairs = asked[0].nonzero().tolist()
            told = [(s, e, int(kept[0, s, e])) for s, e in pairs]
            if row.tokens:
                assert sorted(row.tokens) == sorted(told), ran.plan
        for step, layers in enumerate(truth):
            asked = sum(int(one.asked.sum()) for one in layers.values())
            kept = sum(int(one.kept.sum()) for one in layers.values())
            assert ran.view.routing.dropped(step=step) == (asked - kept, asked)
            lost += asked - kept
            for layer, one in layers.items():
                loads = ran.view.routing.loads(step=step, layer=layer)
                assert loads == one.kept.sum((0, 1)).tolist()
    assert lost > 0


@every_world
def test_the_skew_starves_a_rank_and_floods_another(world, runs):
    """So that the runs above are about what they say: no row comes to the last rank's experts."""
    for ran in runs(world):
        plan = ran.plan
        if plan.model.skew != max(SKEWS) or plan.ep == 1 or plan.model.router == "expert-choice":
            continue
        first, *_, last = ran.view.routing.rank_loads(step=0, layer=0)
        far = plan.model.top_k + (plan.model.experts // plan.model.expert_groups) * (
            (plan.model.group_limit or 1) - 1
        )
        assert first > 0
        if far <= plan.model.experts - plan.experts_here:
            assert last == 0, plan


def test_a_bias_moves_what_one_process_moves(runs):
    """It matters: in some run the loads of the third step are not those of the first."""
    moved = 0
    for ran in runs(4):
        if ran.plan.model.balance == Balance.BIAS:
            first, *_, third = (
                decisions(ran.plan.single())[step][0].asked for step in range(STEPS)
            )
            moved += int((first != third).sum())
    assert moved > 0


# ---------------------------------------------------------------------------- hiding


SIZED: dict[str, Any] = {
    "layers": 4, "hidden": 64, "heads": 4, "seq": 64, "vocab": 64, "experts": 8, "ffn": 64,
    "global_batch": 32, "microbatches": 8, "dp": 2, "ep": 2, "pp": 2, "optimizer": "sgd",
}  # fmt: skip
"""Large enough that a task takes milliseconds."""


@pytest.fixture(scope="module")
def sized(pool: Pool) -> dict[str, Ran]:
    """The same model under a schedule that pairs tasks, and one that does not."""
    chosen = [Plan.of(**SIZED, schedule=name) for name in ("dualpipe", "1f1b")]
    return {ran.plan.schedule: ran for ran in run_all(pool, chosen, parity=False)}


def travels(row: Sequence[Span]) -> Iterator[Span]:
    return (span for span in row if span.op == Op.ALL_TO_ALL)


def test_dualpipe_hides_tokens_behind_another_microbatch(sized):
    """On measured spans of every rank: while tokens of one microbatch are under way, the rank
    computes for another."""
    ran = sized["dualpipe"]
    for row in ran.view.trace.by_rank:
        tasks = [s for s in row if s.lane == Lane.COMPUTE and s.op in (Op.F, Op.B, Op.I)]
        for span in travels(row):
            assert span.lane == Lane.TOKENS
        beside = [
            span
            for span in travels(row)
            for task in tasks
            if task.step == span.step and task.mb != span.mb
            and min(task.t_done, span.t_done) > max(task.t_start, span.t_start)
        ]  # fmt: skip
        assert beside


def alone(trace: Trace) -> float:
    """Which part of the time of all-to-alls passes without any compute of the rank, 0 to 1."""
    total = bare = 0
    for row in trace.by_rank:
        tokens = covered((s.t_start, s.t_done) for s in travels(row))
        work = covered((s.t_start, s.t_done) for s in row if s.op in (Op.F, Op.B, Op.I, Op.W))
        total, bare = total + length(tokens), bare + length(minus(tokens, work))
    return bare / total


def test_pairs_expose_less_than_one_task_after_another(sized):
    """Each rank on a device of its own, messages over one link: what 1F1B stands still for,
    DualPipe hides. So on measured times, and so on modelled ones."""
    link = fit_link_of((ran.view.trace, ran.view.program) for ran in sized.values())
    found = {name: alone(ran.view.own_device(link)) for name, ran in sized.items()}
    assert found["dualpipe"] < found["1f1b"], found

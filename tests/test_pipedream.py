"""Asynchronous PipeDream: which weights every microbatch used, and the truth it is held to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pipeline_runs import LLAMA, TINY, Ran, dressed, run_all
from test_experts_live import run_all as run_reported

from parallel_core import oracle, oracle_stale
from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.model import IGNORED, Place, Transformer, init_weights
from parallel_core.params import param_specs
from parallel_core.pieces import Piece
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, ProgramError, Value
from parallel_core.prove import prove
from parallel_core.text import Sampler, rows_of

PRODUCT: dict[str, Any] = {
    **TINY, "pp": 2, "schedule": "pipedream", "layers": 2, "microbatches": 3, "global_batch": 6,
}  # fmt: skip
SIZES = [(2, 1), (2, 4), (3, 2), (3, 6), (4, 2), (4, 3), (4, 8)]
every_size = pytest.mark.parametrize(("p", "m"), SIZES)
live = pytest.mark.live


@pytest.fixture(scope="module")
def runs(pool) -> dict[tuple[int, int], Ran]:
    """PipeDream on 2 to 4 ranks, also with fewer microbatches than ranks."""
    done = {}
    for world in (2, 3, 4):
        plans = [dressed("pipedream", p, m, m % 2) for p, m in SIZES if p == world]
        done |= {(ran.plan.pp, ran.plan.microbatches): ran for ran in run_all(pool, plans)}
    return done


@every_size
def test_a_forward_reads_the_weights_of_the_formula(p, m):
    """In the program: microbatch mb sees stage s after max(0, mb - (p-1-s)) updates, and its
    backward the same."""
    for s, instrs in enumerate(program_of(dressed("pipedream", p, m, 0)).ranks):
        for instr in instrs:
            if instr.op in (Op.F, Op.B):
                (version,) = (value for value in instr.reads if value.name == "w")
                assert version.at == (s, max(0, instr.mb - (p - 1 - s)))


@live
@every_size
def test_the_run_equals_one_process_with_the_same_stale_weights(p, m, runs):
    parity = runs[p, m].parity
    assert parity["counted"][-1] == "parameters"
    assert parity["max_rel_error"] <= 1e-10


@live
@every_size
def test_so_many_updates_came_before_every_forward_that_ran(p, m, runs):
    """On the clock: the updates that ended on the rank before a forward began."""
    for s, _, spans in runs[p, m].steps():
        updates = [span.t_done for span in spans if span.op == Op.O]
        assert len(updates) == m
        for span in (span for span in spans if span.op == Op.F):
            came = sum(done <= span.t_start for done in updates)
            assert came == max(0, span.mb - (p - 1 - s))


def versions(delay: int, m: int) -> int:
    """The most that live at once: after update k the newest, and those that waiting backwards
    of microbatches k+1, ... k+delay once read."""
    return max(
        len({k + 1} | {max(0, mb - delay) for mb in range(k + 1, min(k + delay, m - 1) + 1)})
        for k in range(m)
    )


@live
@every_size
def test_copies_of_the_weights_are_counted_and_as_many_as_planned(p, m, runs):
    """Stage s keeps p - s versions once there are microbatches enough to need them, never more."""
    copies = runs[p, m].ledger["memory"]["weight_copies"]
    assert copies["predicted"] == copies["measured"]
    assert copies["measured"] == [versions(p - 1 - s, m) for s in range(p)]
    for s, count in enumerate(copies["measured"]):
        assert count == p - s if m >= 2 * (p - 1 - s) else count <= min(p - s, m)


def minibatch_sgd(plan: Plan, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of plain training, an update after every microbatch, nothing stale."""
    model = Transformer(plan)
    init_weights(model, plan)
    optimizer, losses = oracle.make_optimizer(list(model.parameters()), plan), []
    for step in range(steps):
        batch = Sampler(plan).batch(step)
        ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
        found = []
        for mb in range(plan.microbatches):
            rows = torch.from_numpy(rows_of(plan, 0, mb))
            place = Place(plan.seed, step, rows, torch.arange(plan.seq))
            valid = int((labels[rows] != IGNORED).sum())
            loss = model(ids[rows], labels[rows], place, valid)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(sum(found) / len(found))
    return losses, {name: w.detach() for name, w in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_truth_without_staleness_is_plain_training(optimizer, monkeypatch):
    """With all of the model in one stage, p - 1 - s is 0: minibatch after minibatch, as anywhere.

    With two stages it is another training: the formula of staleness is what makes the difference.
    """
    plan = Plan.of(
        **TINY, **LLAMA | {"optimizer": optimizer}, pp=2, schedule="pipedream", layers=2,
        microbatches=4, global_batch=8,
    )  # fmt: skip
    losses, weights = minibatch_sgd(plan, 3)
    stale = oracle_stale.train_stale(plan, 3)
    assert oracle.relative_error(stale.params, weights) > 1e-6
    specs = param_specs(plan)
    whole = (Piece("all", tuple({spec.unit for spec in specs}), specs),)
    monkeypatch.setattr(oracle_stale, "pieces", lambda plan: whole)
    monkeypatch.setattr(oracle_stale, "stage_pieces", lambda plan: ((0,),))
    fresh = oracle_stale.train_stale(plan, 3)
    assert fresh.losses == pytest.approx(losses, rel=1e-12)
    assert oracle.relative_error(fresh.params, weights) <= 1e-12


PRODUCTS: list[dict[str, Any]] = [
    {"tp": 2, "dialect": "gpt", "vocab": 33},
    {"tp": 2, "sp": True, "dialect": "llama", "kv_heads": 1},
    {"cp": 2, "dialect": "llama", "optimizer": "adamw"},
    {"dp": 2, "experts": 4, "ep": 2, "top_k": 2, "balance": "aux", "recompute": "selective"},
]


@pytest.mark.parametrize("axes", PRODUCTS)
def test_stale_updates_of_any_layout_are_proved(axes):
    """Every update takes its microbatch's gradient of all ranks that have a part of it, once."""
    plan = Plan.of(**PRODUCT | axes)
    program = program_of(plan)
    check(program)
    assert prove(program)
    unsummed = [
        tuple(i for i in instrs if not (i.op == Op.ALL_REDUCE and i.mb is not None))
        for instrs in program.ranks
    ]
    if "tp" not in axes:  # the sums over dp and cp left out
        made = replace(program, ranks=tuple(map(_own_gradients, unsummed)))
        with pytest.raises(ProgramError, match="0 times; once is right"):
            prove(made)


def _own_gradients(instrs: tuple[Instr, ...]) -> tuple[Instr, ...]:
    """Updates that take what the rank itself has made."""

    def own(value: Value) -> Value:
        return Value("grad", value.at) if value.name == "gsum" else value

    return tuple(
        replace(i, reads=tuple(map(own, i.reads)), frees=tuple(map(own, i.frees)))
        if i.op == Op.O
        else i
        for i in instrs
    )


@live
def test_stale_updates_of_any_layout_equal_one_process(pool):
    """Slices, parts of a sequence and experts, updated after every microbatch."""
    for ran in run_reported(pool, [Plan.of(**PRODUCT | axes) for axes in PRODUCTS]):
        assert ran.report["parity"]["max_rel_error"] <= 1e-10, ran.plan
        book = ran.report["ledger"]["wire"]
        assert book["predicted"] == book["measured"], ran.plan


@live
def test_weights_that_never_change_for_the_forward_are_noticed(on_ranks):
    plan = Plan.of(**TINY, **LLAMA, pp=2, schedule="pipedream", layers=2, global_batch=4)
    args = {"plan": plan.flat(), "steps": 2, "fault": "stale forever"}
    results = on_ranks(2, "pipeline_targets:train_with_fault", **args)
    assert results[0]["parity"]["max_rel_error"] > 1e-6

"""Korthikanti et al. 2022 and our model: what it reproduces, how closely, and what it cannot."""

from __future__ import annotations

import math
from functools import cache

import pytest

from parallel_core.activations.formula import classic, laid_out, sizes_of
from parallel_core.activations.saved import saved_bytes
from parallel_core.params import local, param_specs
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.schedule import Job
from parallel_core.plan import Plan
from parallel_core.published import table
from parallel_core.sizes import step_flops
from parallel_core.walls.memory import RECIPES

TABLE2, TABLE35, TABLE4 = (table(f"korthikanti_table{n}") for n in ("2", "3_5", "4"))
models = pytest.mark.parametrize("row", TABLE35.rows, ids=lambda row: row["model"])
A100 = 312e12
FIG7 = {
    "fig7_pct_seq": {"sp": True},
    "fig7_pct_sel": {"recompute": "selective"},
    "fig7_pct_seqsel": {"sp": True, "recompute": "selective"},
    "fig7_pct_full": {"recompute": "full"},
}


def plan_of(row, **more) -> Plan:
    """A model of table 3 as a plan of one microbatch on one tensor-parallel group."""
    sizes = {name: row[name] for name in ("heads", "hidden", "layers", "seq", "vocab")}
    base = {"dialect": "gpt", "dropout": 0.1, "dtype": "bfloat16", "tp": row["TP"]}
    return Plan.of(**sizes | base | {"global_batch": row["microbatch"]} | more)


@cache
def layers_in_flight(p: int, m: int, chunks: int, layers: int) -> float:
    """Layers whose activations the first pipeline rank holds at its fullest, by its schedule."""
    name = "interleaved" if chunks > 1 else "1f1b"
    if p == 1:
        return float(layers)
    order = SCHEDULES[name].of(Job(p=p, m=m, v=chunks))
    return order.in_flight[0] * layers / order.stages


def first_rank(row, layer: float) -> float:
    m = row["global_batch"] // row["microbatch"] // row["DP"]
    return layer * layers_in_flight(row["PP"], m, row["interleave_chunks"], row["layers"])


# -- table 2, and what section 5 says of it --------------------------------------------------------


@pytest.mark.parametrize("model, scores, saves", [
    ({"hidden": 12288, "heads": 96}, 80, 70), ({"hidden": 20480, "heads": 128}, 64, 65),
])  # fmt: skip
def test_what_selective_recomputation_saves(model, scores, saves):
    """GPT-3: 5as/h = 80, so 70 % of 114; MT-NLG 64 and 65 %."""
    plan = Plan.of(dialect="gpt", dropout=0.1, dtype="bfloat16", seq=2048, global_batch=1, **model)
    sizes, block = sizes_of(plan), classic()
    sbh = plan.seq * plan.model.hidden
    whole, kept = (block.formula(recompute=k).bytes(**sizes) for k in ("none", "selective"))
    assert whole - kept == scores * sbh
    assert round(100 * (1 - kept / whole)) == saves


@models
def test_the_first_stage_holds_l_layers_and_interleaving_a_little_more(row):
    """L(1 + (p-1)/(p m)) layers, m chunks, from the order of the schedule itself; L with one."""
    assert {"x L layers (p microbatches * L/p)", "x L(1+(p-1)/(p*m_chunks))"} <= set(
        TABLE2.column("bytes_per_layer")
    )
    p, chunks, layers = row["PP"], row["interleave_chunks"], row["layers"]
    more = (p - 1) / (p * chunks) if chunks > 1 else 0
    assert first_rank(row, 1.0) == pytest.approx(layers * (1 + more))


# -- tables 3 and 5 --------------------------------------------------------------------------------


@models
@pytest.mark.parametrize("column, more", [
    ("act_GiB_tp_only", {}), ("act_GiB_sp_selective", {"sp": True, "recompute": "selective"}),
])  # fmt: skip
def test_gigabytes_of_activations(row, column, more):
    """The classic formula times the layers in flight, exactly; ours with its LayerNorm statistics
    within 1 in 10,000."""
    plan = plan_of(row, **more)
    theirs = laid_out(plan, classic()).bytes(**sizes_of(plan))
    assert first_rank(row, theirs) / 2**30 == pytest.approx(row[column], rel=1e-9)
    ours = first_rank(row, saved_bytes(plan, "layer0")) / 2**30
    assert row[column] < ours < row[column] * (1 + 1e-4)


@models
def test_gigabytes_of_weights_and_optimizer(row):
    """18 bytes of each element of the layers' matrices on a rank, exactly: gradients in float32.
    Ours count embedding, head, biases and norms as well, which the paper leaves out: 3 % at most.
    """
    plan = plan_of(row, tied=True)
    specs = [local(plan, spec) for spec in param_specs(plan)]
    matrices = [s.numel for s in specs if s.unit.startswith("layer") and len(s.shape) == 2]
    recipe = RECIPES["bf16, fp32 gradients, Adam, fp32 master"]
    printed = sum(matrices) * recipe.bytes_per_param / row["PP"] / 2**30
    assert printed == pytest.approx(row["param_opt_GiB"], rel=1e-9)
    assert 1 < sum(s.numel for s in specs) / sum(matrices) < 1.03


@models
@pytest.mark.parametrize("column", FIG7)
def test_percent_of_what_tensor_parallelism_alone_keeps(row, column):
    """Within 0.15 of a percent point: the printed ones were read off bars."""
    alone, other = plan_of(row), plan_of(row, **FIG7[column])
    share = saved_bytes(other, "layer0") / saved_bytes(alone, "layer0")
    assert 100 * share == pytest.approx(row[column], abs=0.15)


def whole(row, **more) -> Plan:
    """All of a step's sequences at once, for counting its work."""
    return plan_of(row, global_batch=row["global_batch"], **more)


@models
def test_the_flops_of_a_step(row):
    """72BLsh^2(1 + s/6h + v/12hL), exactly, and with it the MFU within 0.3 points of the printed:
    iteration times have three digits."""
    b, s, h, layers, v = (row[k] for k in ("global_batch", "seq", "hidden", "layers", "vocab"))
    theirs = 72 * b * layers * s * h**2 * (1 + s / (6 * h) + v / (12 * h * layers))
    ours = step_flops(whole(row))
    assert ours == pytest.approx(theirs, rel=1e-12)
    mfu = ours / (row["iter_s_seqpar_selective"] * row["gpus"] * A100)
    assert 100 * mfu == pytest.approx(row["MFU_pct"], abs=0.3)


@models
def test_hardware_flops_are_booked_otherwise(row):
    """The printed HFU follows from s/3h in place of s/6h: 12Bs^2h a layer for what selective
    recomputation repeats. The two products that run again are 4Bs^2h, and that is what ours count,
    so our HFU lies between the two printed figures."""
    b, s, h, layers, v = (row[k] for k in ("global_batch", "seq", "hidden", "layers", "vocab"))
    seconds = row["iter_s_seqpar_selective"] * row["gpus"] * A100
    booked = 72 * b * layers * s * h**2 * (1 + s / (3 * h) + v / (12 * h * layers))
    assert 100 * booked / seconds == pytest.approx(row["HFU_pct"], abs=0.3)
    once, again = step_flops(whole(row)), step_flops(whole(row, recompute="selective"))
    assert again - once == pytest.approx((booked - once) / 3, rel=1e-9)
    assert again - once == pytest.approx(4 * b * s**2 * h * layers, rel=1e-9)


@models
def test_what_full_recomputation_costs(row):
    """Its FLOPs over those of selective recomputation: within 4 points of the measured gain in
    throughput, of which sequence parallelism's own few percent are a part."""
    full, selective = (step_flops(whole(row, recompute=k)) for k in ("full", "selective"))
    printed = row["throughput_gain_pct"]
    assert 100 * (full / selective - 1) == pytest.approx(printed, abs=4)
    seconds = row["iter_s_full_recompute"] / row["iter_s_seqpar_selective"]
    assert 100 * (seconds - 1) == pytest.approx(printed, abs=0.3)


# -- table 4 ---------------------------------------------------------------------------------------


def layer_flops(recompute: str) -> float:
    """One layer's work in a forward and a backward, of the 22B model."""
    row = TABLE35.row(model="22B")
    two, one = (step_flops(plan_of(row, layers=n, recompute=recompute)) for n in (2, 1))
    return two - one


def ms(experiment: str) -> float:
    return TABLE4.row(experiment=experiment)["combined_ms"]


def test_full_recomputation_is_one_more_forward():
    """27.2 ms is 19.6 and one forward of 7.7, to 0.1. In FLOPs that is a third more; measured it is
    39 %, because the backward's products run faster than twice the forward's time."""
    base = TABLE4.row(experiment="baseline no recompute")
    assert base["combined_ms"] + base["fwd_ms"] == pytest.approx(
        ms("baseline full recompute"), abs=0.11
    )
    assert layer_flops("full") / layer_flops("none") == pytest.approx(4 / 3, rel=1e-9)
    assert base["bwd_ms"] / base["fwd_ms"] < 2


def test_selective_recomputation_costs_more_than_its_flops():
    """1.8 % of the FLOPs take 6.6 % of the time: softmax and dropout of the scores have next to no
    FLOPs but read and write every score. FLOPs are a lower bound here."""
    flops = layer_flops("selective") / layer_flops("none") - 1
    measured = ms("selective") / ms("baseline no recompute") - 1
    assert flops == pytest.approx(0.0175, abs=0.0005)
    assert 2 * flops < measured < layer_flops("full") / layer_flops("none") - 1


@pytest.mark.parametrize("row", TABLE4.rows, ids=lambda row: row["experiment"])
def test_the_table_agrees_with_itself(row):
    """Forward and backward add up; the overhead is over the baseline, to its rounding."""
    assert row["fwd_ms"] + row["bwd_ms"] == pytest.approx(row["combined_ms"], abs=0.051)
    overhead = 100 * (row["combined_ms"] / ms("baseline no recompute") - 1)
    assert math.isclose(overhead, row["overhead_pct"], abs_tol=0.8)

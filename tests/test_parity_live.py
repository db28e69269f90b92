"""The parity matrix on real ranks: layouts equal one process, and planted faults are named."""

from __future__ import annotations

from collections import Counter

import pytest

from parallel_core.params import param_specs, units
from parallel_core.parity.matrix import cells, parse, sample
from parallel_core.parity.sweep import TARGET, Check, State, outcome, sweep
from parallel_core.runtime import PROBED_STEPS

pytestmark = pytest.mark.live

LAYOUTS = (
    "dp=2,tp=2,sp=True",
    "dp=2,zero=3,pp=2,schedule=zb-h1",
    "dp=2,zero=2,cp=2,ep=4",
    "dp=4,zero=3,shard=2,microbatches=2",
    "tp=2,pp=2,schedule=dualpipe,recompute=full",
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_equals_one_process_in_every_tensor(pool, layout):
    """Nothing is off on any rank, and every tensor was compared."""
    found = outcome(parse(layout), pool)
    assert found.state is State.EQUAL, found.message
    assert set(found.tensors) == {spec.name for spec in param_specs(found.cell.plan)}
    assert found.worst < 1e-11


@pytest.mark.parametrize("layout", LAYOUTS[1:3])
def test_every_element_is_compared_and_everything_that_passes_between_units(pool, layout):
    """Copies apart, what the ranks compare is every parameter once: no shard is forgotten."""
    plan = parse(layout).plan
    with pool.start(*Check(plan, look=True).order) as run:
        results = run.wait(120)
    elements = Counter()
    for result in results:
        for row in result["tensors"]:
            if (row["step"], row["kind"]) == (0, "gradient"):
                key = row["start"], row["numel"], str(row["cut"])
                elements[row["name"], key] += 1
    for spec in param_specs(plan):
        parts = {key: n for (name, key), n in elements.items() if name == spec.name}
        assert len(set(parts.values())) == 1, f"{spec.name}: some parts have more copies"
        assert sum(numel for _, numel, _ in parts) == spec.numel, spec.name
    seen = {(r["step"], r["kind"], r["unit"], r["mb"]) for x in results for r in x["units"]}
    assert seen == {
        (step, kind, unit, mb)
        for step in range(PROBED_STEPS)
        for kind in ("forward", "backward")
        for unit in units(plan.model)[:-1]
        for mb in range(plan.microbatches)
    }


FAULTS = {
    # fault: (layout, step, phase, unit, tensor, ranks, what the sentence proves)
    "SkippedReduction": (
        "dp=2,bucket_mb=0.02",
        *(0, "backward", "layer0", "attn_norm", (0, 1)),
        "along dp add up to the truth",
    ),
    "MeanInsteadOfSum": (
        "dp=2",
        *(0, "backward", "head", "head.norm", (0, 1)),
        "0.5 times the truth",
    ),
    "LateReplica": ("dp=2", 1, "update", "layer1", "attn_norm", (1,), "1.001 times the truth"),
    "LouderLayer": (
        "dp=2,microbatches=2",
        *(0, "forward", "layer1", "hands on", (1,)),
        "microbatch 1",
    ),
    "QuietBackward": (
        "tp=2",
        *(0, "backward", "layer1", "reaches layer0", (1,)),
        "0.5 times the truth",
    ),
    "SkippedW": ("pp=2,schedule=zb-h1", 0, "backward", "layer1", "attn.q", (1,), "layer1"),
    "WrongMicrobatch": ("pp=2", 0, "backward", "layer1", "reaches layer0", (0,), "microbatch 1"),
    "OneNorm": ("tp=2", 0, "norm", "the whole model", "norm", (0, 1), "one process has"),
    "Unsummed": (
        "tp=2,sp=True",
        *(0, "backward", "head", "head.norm", (0, 1)),
        "along tp add up to the truth",
    ),
    "ScaledByEp": (
        "dp=2,ep=2",
        *(0, "backward", "layer1", "experts.gate", (0, 1)),
        "2 times the truth",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_where_it_was_planted(pool, fault):
    """Step, forward or backward, unit, tensor and ranks of the first divergence are the fault's."""
    layout, step, phase, unit, tensor, ranks, proof = FAULTS[fault]
    found = outcome(parse(layout), pool, target=f"parity_targets:with_{fault}")
    assert found.state is State.OFF
    where = found.first
    assert (where.step, where.phase, where.unit) == (step, phase, unit), found.message
    assert tensor in where.tensor and where.ranks == ranks, found.message
    assert proof in found.message and found.message == where.sentence


def test_a_rank_that_breaks_is_told_and_the_next_layout_runs(pool):
    """A failure is one cell's; the sweep goes on, and refused cells run nothing."""
    broken = outcome(parse("dp=2"), pool, target="parity_targets:breaks")
    assert broken.state is State.BROKEN and "rank" in broken.message
    refused = next(cell for cell in cells(4) if cell.plan is None)
    states = [found.state for found in sweep([refused, parse("dp=2")], pool)]
    assert states == [State.REFUSED, State.EQUAL]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_matrix(pool):
    """Every layout on up to eight ranks equals one process."""
    red = [found for found in sweep(cells(8), pool) if found.state.red]
    assert not red, [(found.cell.name, found.message) for found in red]


def test_a_sample_of_the_matrix(pool):
    """A few layouts from everywhere in the list, on up to four ranks."""
    for found in sweep(sample(cells(4), 6), pool, target=TARGET):
        assert found.state is State.EQUAL, (found.cell.name, found.message)

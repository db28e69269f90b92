"""The parity matrix on real ranks: layouts equal one process, and planted faults are named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from parallel_core import own_block
from parallel_core.params import param_specs, units
from parallel_core.parity.matrix import cells, parse, sample
from parallel_core.parity.sweep import State, judge, outcome, sweep
from parallel_core.truth_beside import PROBED_STEPS

pytestmark = pytest.mark.live

own_block.admit({"block": ""})
OWN = f"block={Path(__file__).parent / 'own_block_sample.py'}:Block"

LAYOUTS = (
    "dp=2,tp=2,sp=True",
    "dp=2,zero=3,pp=2,schedule=zb-h1",
    "dp=2,zero=2,cp=2,ep=4",
    "dp=4,zero=3,shard=2,microbatches=2",
    "tp=2,pp=2,schedule=dualpipe,recompute=full",
    "tp=2,pp=2,rank_order=pp-tp-cp-dp",
    "dp=2,tp=2,zero=1,rank_order=cp-dp-tp-pp",
    f"{OWN},dp=2,zero=3,pp=2",
)


def _together(pool, runs):
    """What all ranks told of each (fault or None, layout); those of one world in one go."""
    told = {}
    for world in {parse(layout).plan.world_size for _, layout in runs}:
        mine = [run for run in runs if parse(run[1]).plan.world_size == world]
        args = {"runs": [[fault, parse(layout).plan.flat()] for fault, layout in mine]}
        with pool.start("parity_targets:many", world, args) as run:
            told |= dict(zip(mine, zip(*run.wait(240), strict=True), strict=True))
    return told


@pytest.fixture(scope="module")
def right(pool):
    """What the ranks of each layout told."""
    runs = _together(pool, [(None, layout) for layout in LAYOUTS])
    return {layout: told for (_, layout), told in runs.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_equals_one_process_in_every_tensor(right, layout):
    """Nothing is off on any rank, and every tensor was compared."""
    found = judge(parse(layout), right[layout])
    assert found.state is State.EQUAL, found.message
    assert set(found.tensors) == {spec.name for spec in param_specs(found.cell.plan)}
    assert found.worst < 1e-11


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_element_is_compared_and_everything_that_passes_between_units(right, layout):
    """Copies apart, what the ranks compare is every parameter once: no shard is forgotten."""
    plan, results = parse(layout).plan, right[layout]
    elements = Counter()
    for row in (row for result in results for row in result["tensors"]):
        if (row["step"], row["kind"]) == (0, "gradient"):
            elements[row["name"], (row["start"], row["real"], str(row["cut"]))] += 1
    for spec in param_specs(plan):
        parts = {key: n for (name, key), n in elements.items() if name == spec.name}
        assert len(set(parts.values())) == 1, f"{spec.name}: some parts have more copies"
        assert sum(real for _, real, _ in parts) == spec.numel, spec.name
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


@pytest.fixture(scope="module")
def wrong(pool):
    """What the ranks told of each fault."""
    runs = _together(pool, [(fault, row[0]) for fault, row in FAULTS.items()])
    return {fault: told for (fault, _), told in runs.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_where_it_was_planted(wrong, fault):
    """Step, forward or backward, unit, tensor and ranks of the first divergence are the fault's."""
    layout, step, phase, unit, tensor, ranks, proof = FAULTS[fault]
    found = judge(parse(layout), wrong[fault])
    assert found.state is State.OFF
    where = found.first
    assert (where.step, where.phase, where.unit) == (step, phase, unit), found.message
    assert tensor in where.tensor and where.ranks == ranks, found.message
    assert proof in found.message and found.message == where.sentence


def test_a_fault_in_a_readers_block_is_named_too(pool):
    """Its layers are watched as the lab's are, its parameters named as its author named them."""
    layouts = {
        "LouderLayer": f"{OWN},dp=2,microbatches=2",
        "SkippedReduction": f"{OWN},dp=2,bucket_mb=0.02",
    }
    told = _together(pool, list(layouts.items()))
    louder, skipped = (judge(parse(x), told[fault, x]).first for fault, x in layouts.items())
    assert (louder.phase, louder.unit, louder.ranks) == ("forward", "layer1", (1,))
    assert louder.microbatch == 1 and skipped.phase == "backward"
    assert skipped.tensor.endswith("layer0.block.gain") and "along dp add up" in skipped.sentence


def test_a_layout_that_is_off_runs_again_with_everything_watched(pool):
    """The first run sees weights and gradients; the second says where in the forward it began."""
    found = outcome(parse("dp=2,microbatches=2"), pool, target="parity_targets:with_LouderLayer")
    assert found.state is State.OFF
    assert (found.first.phase, found.first.unit) == ("forward", "layer1")


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
    for found in sweep(sample(cells(4), 4), pool):
        assert found.state is State.EQUAL, (found.cell.name, found.message)

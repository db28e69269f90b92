"""The parity matrix as a list: everything a plan can be split by is in it, or refused in words."""

from __future__ import annotations

import math
from itertools import combinations, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.choices import DPMethod, Recompute
from parallel_core.context import METHODS
from parallel_core.fields import PlanError
from parallel_core.params import param_specs, units
from parallel_core.parity import sweep as parity_sweep
from parallel_core.parity.axes import KINDS, KNOBS, PAIRED_SCHEDULES, by_kind, ways
from parallel_core.parity.first import first
from parallel_core.parity.matrix import cells, fitted, parse, sample, text_of
from parallel_core.parity.sweep import State, judge
from parallel_core.pipeline import SCHEDULES
from parallel_core.plan import LAYOUT

WORLD = 8
SAMPLE = f"{Path(__file__).parent / 'own_block_sample.py'}:Block"


@pytest.fixture(scope="module")
def every():
    return cells(WORLD)


def test_every_field_of_a_layout_is_a_way_or_says_why_not():
    """A field that is added to the plan's layout must be put to the proof, or excused in words."""
    used = {name for way in ways() for name in way.at(2)}
    used |= {"microbatches"}  # what accumulation becomes
    assert set(LAYOUT) <= used | set(KNOBS), set(LAYOUT) - used - set(KNOBS)
    assert not used & set(KNOBS)
    assert all(KNOBS.values())


def test_every_choice_of_a_field_is_a_way():
    """Each method, stage and schedule of the tables runs alone."""
    names = {kind: {way.name for way in found} for kind, found in by_kind().items()}
    assert names["dp"] == {*(f"dp-{m}" for m in DPMethod), "zero-1", "zero-2", "zero-3", "hsdp"}
    assert names["pp"] == set(SCHEDULES)
    assert names["cp"] == set(METHODS)
    assert names["memory"] == {*Recompute} - {Recompute.NONE} | {"offload"}
    assert set(names) == set(KINDS) and all(names.values())
    assert {"zb-h1", "interleaved", "dualpipe"} <= set(PAIRED_SCHEDULES)


def test_each_way_alone_and_each_pair_is_one_cell(every):
    """Nothing is left out and nothing listed twice."""
    alone = [cell.parts for cell in every if cell.section == "alone"]
    assert alone == [(way.name,) for way in ways()]
    table = by_kind(paired=True)
    wanted = [
        (one.name, other.name)
        for kinds in combinations(KINDS, 2)
        for one, other in product(*(table[kind] for kind in kinds))
    ]
    assert [cell.parts for cell in every if cell.section == "pairs"] == wanted
    names = [cell.name for cell in every]
    assert len(set(names)) == len(names)


def test_every_three_four_and_five_kinds_meet(every):
    """Each set of kinds has one layout, and many more than a dozen can run."""
    deep = [cell for cell in every if len(cell.parts) > 2]
    assert [cell.kinds for cell in deep] == [s for n in (3, 4, 5) for s in combinations(KINDS, n)]
    for count in (3, 4, 5):
        assert sum(len(cell.parts) == count and cell.plan is not None for cell in deep) >= 12
    used = {name for cell in deep if cell.plan for name in cell.parts}
    assert len(used) > 0.8 * sum(map(len, by_kind(paired=True).values()))


def test_a_cell_is_a_plan_of_its_ways_or_a_reason(every):
    """A plan has what its ways ask for and no more ranks than there are; others say why not."""
    asked = {way.name: way for way in ways()}
    for cell in every:
        assert (cell.plan is None) == bool(cell.refused), cell.name
        if cell.plan is None:
            assert "the nearest value" in cell.refused or "ranks, of" in cell.refused, cell.refused
            continue
        assert cell.plan.world_size <= WORLD
        flat = cell.plan.flat()
        for name in cell.parts:
            for field, value in asked[name].fields.items():
                larger = field == "shard" and flat[field] == flat["ep"]  # it has every expert
                assert field == "accumulate" or larger or flat[field] == value, cell.name
            axis = asked[name].axis
            assert not axis or flat[axis] >= 2, (cell.name, axis)
        if "accumulate" in cell.parts:
            assert flat["microbatches"] == (4 * flat["pp"] if flat["pp"] > 1 else 2)
        if "hsdp" in cell.parts:
            assert cell.plan.mesh.degree("replica") >= 2


def test_what_is_refused_is_what_the_plan_refuses(every):
    """The reason is the plan's own sentence, and only a small part of the matrix has one."""
    refused = [cell for cell in every if cell.plan is None]
    assert len(refused) < len(every) / 15
    with pytest.raises(PlanError) as error:
        fitted({"dp": 2, "ep": 2, "offload": True})
    assert str(error.value) in {cell.refused for cell in refused}


def test_a_layout_in_words_is_the_layout(every):
    """What is printed to run a cell again gives that cell's plan."""
    for cell in sample(every, 60):
        assert parse(cell.layout).plan == cell.plan, cell.layout
    assert parse("dp=2,tp=2,pp=2,schedule=zb-h1").plan.world_size == 8
    assert parse("dp=2,kv_heads=None").plan.model.kv_heads is None
    assert text_of(parse("dp=2, zero=1, pp=2").plan) == "dp=2,zero=1,pp=2"
    assert parse("pp=2,schedule=pipedream").changed == "tied=False"
    uneven = parse("pp=2,layers=3,stage_layers=2,1").plan
    assert uneven.stage_layers == "2,1" and parse(text_of(uneven)).plan == uneven


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *(("dp", "name=value"), ("", "no field"), ("dq=2", "dq")),
        *(("dp=2,tp", "must be a whole number"), ("cp=0", "from 1"), ("dp=none", "must be")),
        ("pp=2,tied=True,schedule=pipedream", "tied"),
    ],
)
def test_a_layout_that_cannot_be_read_is_refused_in_words(text, says):
    """A wrong word gives one sentence; so does a model that the reader insists on."""
    with pytest.raises(PlanError, match=says):
        parse(text)


def test_a_sample_is_spread_and_another_for_each_seed(every):
    """As many as asked for, all different, none refused; a small world holds to its ranks."""
    one, other = sample(every, 20), sample(every, 20, seed=1)
    assert len({cell.name for cell in one}) == 20 and one != other
    assert all(cell.plan for cell in one)
    assert {cell.section for cell in one} >= {"alone", "pairs", "4 axes"}
    assert all(cell.plan is None or cell.plan.world_size <= 4 for cell in cells(4))


# ---------------------------------------------------------------------------- the first divergence


def _right(plan, steps=2):
    """What ranks would tell of a plan if all were right, every rank holding everything."""
    sizes = {spec.name: spec.numel for spec in param_specs(plan)}
    number = {"ours": 1.0, "truth": 1.0, "error": 0.0}
    tensors = [
        {"step": k, "kind": kind, "name": name, "start": 0, "cut": [], "real": n, "error": 0.0}
        for k in range(steps)
        for kind in ("gradient", "parameter")
        for name, n in sizes.items()
    ]
    passed = [
        {"step": k, "kind": kind, "unit": unit, "mb": mb, "error": 0.0}
        for k in range(steps)
        for kind in ("forward", "backward")
        for unit in units(plan.model)[:-1]
        for mb in range(plan.microbatches)
    ]
    return [
        {
            "losses": [dict(number) for _ in range(steps)],
            "norms": [dict(number) for _ in range(steps)],
            "tensors": [dict(row) for row in tensors],
            "units": [dict(row) for row in passed],
        }
        for _ in range(plan.world_size)
    ]


PLAN = parse("dp=2,microbatches=2").plan


def _order(row, plan):
    """Where a row stands in a step: forward, down again with each unit's own, then updates."""
    every = list(units(plan.model))
    if row["kind"] == "forward":
        return 0, every.index(row["unit"]), 0
    if row["kind"] == "backward":
        return 1, -every.index(row["unit"]), 0
    unit = row["name"].split(".")[0]
    names = [spec.name for spec in param_specs(plan)]
    if row["kind"] == "gradient":
        return 1, -every.index(unit), 1 + names.index(row["name"])
    return 2, every.index(unit), names.index(row["name"])


@given(data=st.data(), bad=st.sampled_from([1e-3, math.inf, math.nan]))
def test_of_several_wrong_things_the_first_is_named(data, bad):
    """Whatever else is wrong later in the step or in later ones, the earliest is told."""
    results = _right(PLAN)
    assert first(PLAN, results) is None
    rows = [(rank, row) for rank, r in enumerate(results) for row in (*r["tensors"], *r["units"])]
    wrong = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=4))
    for _, row in wrong:
        row["error"] = bad
    earliest = min(wrong, key=lambda pair: (pair[1]["step"], _order(pair[1], PLAN)))[1]
    found = first(PLAN, results)
    assert found is not None and found.step == earliest["step"]
    told = earliest["name"] if "name" in earliest else earliest["unit"]
    assert told in found.tensor
    phases = {"gradient": "backward", "parameter": "update"}
    assert found.phase == phases.get(earliest["kind"], earliest["kind"])
    every = units(PLAN.model)
    at = every.index(earliest["unit"]) if "unit" in earliest else -1
    culprit = every[at + (earliest["kind"] == "backward")] if at >= 0 else told.split(".")[0]
    assert found.unit == culprit  # what reaches a unit is the work of the one above it
    key = ("step", "kind", "name", "unit")
    same = {r for r, row in wrong if [row.get(k) for k in key] == [earliest.get(k) for k in key]}
    assert set(found.ranks) <= same


def test_a_factor_and_a_missing_sum_are_told_apart():
    """Numbers that are twice the truth, and parts that add up to it, are said to be just that."""
    name = param_specs(PLAN)[0].name

    def found(**more):
        results = _right(PLAN)
        for rank, result in enumerate(results):
            row = next(r for r in result["tensors"] if r["name"] == name)
            row |= {"error": 0.5, **{key: value[rank] for key, value in more.items()}}
        return first(PLAN, results).sentence

    sums = ([0.25, 1.0], [0.75, 1.0])
    assert "2 times the truth" in found(times=(2.0, 2.0), sum=([2.0, 1.0], [2.0, 1.0]))
    assert "along dp add up" in found(times=(None, None), sum=sums)
    assert "along dp" not in found(times=(None, None), sum=([0.25, 1.0], [0.5, 1.0]))


def test_an_outcome_has_the_largest_errors_and_no_red_without_one():
    """Judging takes the worst rank of every tensor; rounding is equal, a thousandth is off."""
    cell = parse(text_of(PLAN))
    results = _right(cell.plan)
    results[1]["tensors"][0]["error"] = 1e-12
    assert judge(cell, results).state is State.EQUAL and judge(cell, results).worst == 1e-12
    results[1]["norms"][1] = {"ours": 2.0, "truth": 1.0, "error": 1.0}
    found = judge(cell, results)
    assert found.state is State.OFF and found.errors["gradient norm"] == 1.0
    assert found.message == (
        "step 1, norm of the whole model: the gradient norm is 2 where one process has 1"
    )


@given(data=st.data())
def test_what_no_rank_compared_is_not_called_equal(data):
    """One part of one parameter in one step, on the only rank that has it: told, and red."""
    cell = parse(text_of(PLAN))
    results = _right(cell.plan)
    lost = data.draw(st.sampled_from(results[0]["tensors"]))
    for result in results:
        rows = result["tensors"]
        key = {k: lost[k] for k in ("step", "kind", "name")}
        at = next(i for i, row in enumerate(rows) if key.items() <= row.items())
        half = {**rows[at], "start": 7, "real": rows[at]["real"] // 2}
        rows[at : at + 1] = data.draw(st.sampled_from([[], [half]]))
    found = judge(cell, results)
    if any(key.items() <= row.items() for row in results[0]["tensors"]):
        assert "elements were compared" in found.message
    assert found.state is State.BROKEN and lost["name"] in found.message
    assert f"step {lost['step']}" in found.message
    assert ("gradient" in found.message) == (lost["kind"] == "gradient")


def test_what_this_machine_does_not_bear_is_refused_and_the_next_one_has_its_turn(monkeypatch):
    """A sweep of many layouts loses none to one that is too large here and now."""

    def bears(plan):
        raise PlanError("dp", 2, "is more than fits", 1)

    monkeypatch.setattr(parity_sweep, "check_bears", bears)
    found = [each.state for each in parity_sweep.sweep([parse("dp=2"), parse("tp=2")], None)]
    assert found == [State.REFUSED, State.REFUSED]

"""The shard bench's figures say what the plan and the program say, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.cases import program_of
from parallel_core.cost import UnitCost
from parallel_core.ledger import predicted_memory
from parallel_core.outline import FOLLOWED, KINDS, STATE, Held, memory_outline
from parallel_core.peak import predicted_peak
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.report import predict
from parallel_core.simulate import simulate
from parallel_core.views.river import River, river
from parallel_core.views.river_alive import existing
from parallel_core.views.river_moments import moments, peak
from parallel_core.views.shards import (
    MOST_COLUMNS,
    Stage,
    account,
    describe_grid,
    shard_grid,
    stage_bars,
)
from parallel_core.views.shards_alive import instruction_rows
from parallel_core.views.shards_traffic import Traffic, at_stage, coefficient, predicted, rows

BEATS = {op: 1 + 0.0137 * i for i, op in enumerate(Op)}  # so that no two ends fall together
TINY = {"layers": 2, "hidden": 8, "heads": 2, "vocab": 16, "seq": 8, "global_batch": 24}

plans = st.builds(
    lambda dp, zero, shared, m, rest: Plan.of(
        dp=dp, zero=zero, shard=2 if shared and zero else None, microbatches=m, **TINY, **rest
    ),
    st.sampled_from([2, 4]),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([1, 2, 3]),
    st.fixed_dictionaries(
        {
            "tied": st.booleans(),
            "keep_gathered": st.booleans(),
            "prefetch": st.integers(0, 3),
            "clip": st.sampled_from([None, 1.0]),
            "dtype": st.sampled_from(["float32", "bfloat16"]),
        }
    ),
)


@given(plans)
@settings(max_examples=30, deadline=None)
def test_named_tensors_add_up_to_the_outline(plan):
    """The names behind a moment have the bytes of outline.py, kind by kind, at each moment."""
    program = program_of(plan)
    trace = simulate(program, UnitCost(beats=BEATS))
    settled = replace(trace, spans=tuple(replace(span, step=1) for span in trace.spans))
    outline = [row for row in memory_outline(plan, program, settled) if row.rank == 1]
    found = moments(plan, program, trace, 1)
    works = {span.index for span in trace.by_rank[1] if span.op != Op.WAIT}
    ends = [(m.at, *(m.bytes[kind] for kind in KINDS)) for m in found if m.over]
    want = [(row.index, *(row[kind] for kind in KINDS)) for row in outline]
    assert [e for e in ends if e[0] in works] == [w for w in want if w[0] in works]
    for moment in (m for m in found if not m.over):
        tensors = existing(plan, program, trace, rank=1, at=moment.at)
        sums = {kind: sum(t.size for t in tensors if t.kind == kind) for kind in FOLLOWED}
        assert sums == dict(moment.bytes), moment
    assert len(instruction_rows(plan, program, trace, 1)) == len(program.ranks[1])


@given(plans)
@settings(max_examples=30, deadline=None)
def test_no_modelled_moment_is_above_the_peak_that_any_timing_allows(plan):
    """Not even at one time, where some instructions take none."""
    found = moments(plan, program_of(plan), predict(plan), 1)
    assert peak(found).total <= predicted_peak(plan, program_of(plan))["total"][1]


def traffic(plan):
    """What the plan's program says a rank sends."""
    return Traffic(plan, predicted(plan, program_of(plan)))


@given(plans)
@settings(max_examples=30, deadline=None)
def test_traffic_is_the_formula_and_the_padding_is_all_that_is_above_it(plan):
    """2Ψ, 2Ψ, (m+1)Ψ, 3mΨ: exact in elements of padded blocks, without a tied embedding."""
    plan = plan.but(tied=False)
    for zero in range(4):
        one = traffic(at_stage(plan, zero))
        assert coefficient(one.plan) <= one.in_psi < 1.1 * coefficient(one.plan)
        if not zero:
            assert one.in_psi == 2


def test_where_every_block_divides_the_ratios_are_exact():
    """One microbatch: 1, 1, 1, 1.5 times plain DP; HSDP moves a part of it to another axis."""
    plan = Plan.of(dp=4, zero=3)
    found = [traffic(at_stage(plan, z)) for z in range(4)]
    assert [one.total / found[0].total for one in found] == [1, 1, 1, 1.5]
    kept = plan.but(keep_gathered=True)
    assert traffic(kept).total == found[0].total
    hybrid = traffic(plan.but(shard=2)).predicted
    assert set(hybrid) == {"shard", "replica"} and hybrid["shard"] > hybrid["replica"]


def test_a_count_that_differs_on_one_axis_is_no_equality():
    """The table says NO where a run counted one element more, and nothing before a run."""
    plan = Plan.of(dp=4, zero=3, shard=2)
    want = traffic(plan).predicted
    wrong = {**want, "replica": want["replica"] + 1}
    found = [Traffic(plan, want), Traffic(plan, want, want), Traffic(plan, want, wrong)]
    assert [one.equal for one in found] == [None, True, False]
    (row,) = [row for row in rows(found) if row["a rank sends"] == "equal"]
    assert row["ZeRO-3"] == "NO"  # the last of the three columns of one name


def stages(plan, **measured):
    """The four stages of a plan; `measured` by `z<stage>`."""
    found = []
    for zero in range(4):
        each = at_stage(plan, zero)
        peak = predicted_peak(each, program_of(each))["total"]
        memory = predicted_memory(each)
        ran = measured.get(f"z{zero}", (None, None))
        found.append(
            Stage(zero=zero, predicted=memory, peak=peak, measured=ran[0], measured_peak=ran[1])
        )
    return found


def test_bars_hold_the_predicted_bytes_until_a_run_measured_others():
    """Every stage has a bar a rank and kind; a measured one replaces the pale one."""
    plan = Plan.of(dp=4, zero=3)
    other = {kind: [size + 8 for size in each] for kind, each in predicted_memory(plan).items()}
    found = stages(plan, z3=(other, [9, 9, 9, 9]))
    figure = stage_bars(found, badges=["b"], capacity=1e7)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [len(bar.x) for bar in bars] == [16] * 3
    for kind, bar in zip(STATE, bars, strict=True):
        want = [size for stage in found[:3] for size in stage.predicted[kind]]
        assert list(bar.y) == [*want, *other[kind]]
        assert bar.marker.color[0] != bar.marker.color[-1]  # pale where nothing ran
    assert "measured otherwise" in account(found) and account(found).count("not run yet") == 3
    with_peaks = [trace for trace in figure.data if trace.name == "peak, measured"]
    assert [list(trace.y) for trace in with_peaks] == [[9, 9, 9, 9]]


def test_the_river_stacks_what_was_measured_under_what_was_predicted():
    """Before a run the bands are the outline; after it the readings, the outline on top."""
    plan = Plan.of(dp=4, zero=3)
    trace = predict(plan)
    found = moments(plan, program_of(plan), trace, 2)
    bare = river(River(trace=trace, rank=2, moments=found))
    bands = [t for t in bare.data if getattr(t, "stackgroup", None) == "state"]
    assert [list(b.y) for b in bands] == [[m.bytes[kind] for m in found] for kind in KINDS]
    assert not any(t.name == "predicted" for t in bare.data)
    readings = [Held(2, 1, m.at, m.time, 1, 2, 3, 4) for m in found if m.over]
    ran = river(River(trace=trace, rank=2, moments=found, measured=readings, capacity=1e6))
    bands = [t for t in ran.data if getattr(t, "stackgroup", None) == "state"]
    assert [set(b.y[1:]) for b in bands] == [{1}, {2}, {3}, {4}]
    edges = [t for t in ran.data if t.name == "predicted"]
    assert list(edges[-1].y) == [m.total for m in found]
    dots = next(t for t in ran.data if t.name == "moments")
    assert list(dots.customdata) == [m.at for m in found if not m.over]
    assert any("capacity" in note.text for note in ran.layout.annotations)


@given(plans)
@settings(max_examples=30, deadline=None)
def test_a_band_is_named_where_it_has_bytes(plan):
    """At the name's time its height lies between the band's edges, and no box is drawn behind it:
    it would look like bytes."""
    trace = predict(plan)
    found = moments(plan, program_of(plan), trace, 0)
    figure = river(River(trace=trace, rank=0, moments=found))
    low = [0] * len(found)
    for band in (t for t in figure.data if getattr(t, "stackgroup", None) == "state"):
        high = [under + size for under, size in zip(low, band.y, strict=True)]
        for note in (n for n in figure.layout.annotations if n.text == band.name):
            at = max(i for i, x in enumerate(band.x) if x <= note.x)
            assert low[at] < note.y < high[at] and note.bgcolor is None
        low = high


@pytest.mark.parametrize(("dp", "shard"), [(4, None), (4, 2), (4, 1), (64, None)])
def test_equal_colours_hold_the_same_shard(dp, shard):
    """A column of the grid is a replica group of the mesh, and has one colour."""
    plan = Plan.of(dp=dp, zero=3, shard=shard, global_batch=64)
    figure = shard_grid(plan)
    cells = {
        note.text: shape.fillcolor
        for note, shape in zip(figure.layout.annotations, figure.layout.shapes, strict=False)
    }
    assert len(cells) == min(plan.shards, MOST_COLUMNS) * min(dp // plan.shards, 8)
    for group in plan.mesh.groups("replica") if plan.shard_axis == "shard" else ():
        assert len({cells[f"r{rank}"] for rank in group}) == 1
    assert describe_grid(plan)

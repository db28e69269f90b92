"""The shard bench: its figures say what the plan, the program and the run say, byte for byte."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from parallel_core import places
from parallel_core.cases import program_of
from parallel_core.cost import UnitCost
from parallel_core.ledger import predicted_memory
from parallel_core.outline import FOLLOWED, KINDS, STATE, Held, memory_outline
from parallel_core.peak import predicted_peak
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.report import predict
from parallel_core.simulate import simulate
from parallel_core.trace import Kind
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

APP = places.app()
sys.path.insert(0, str(APP))

from screens import live, shard_bench, shard_bench_runs  # noqa: E402  (the app's folder must be on the path)

SMALL = {"dp": 2, "layers": 2, "hidden": 32, "heads": 2, "seq": 32, "steps": 3}
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


@pytest.fixture(scope="module", autouse=True)
def no_run_is_left():
    """The runs that the page starts belong to this process; they end with these tests."""
    yield
    live.close_jobs()


# -- the views -------------------------------------------------------------------------------------


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


# -- the page --------------------------------------------------------------------------------------


def open_page(**query):
    """The page with these words in its URL."""
    path = f"import sys; sys.path.insert(0, {str(APP)!r})\n"
    source = path + "from screens import shard_bench\nshard_bench.page()"
    at = AppTest.from_string(source, default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = str(value)
    return at.run()


def button(at, label):
    """The button that reads `label`."""
    return next(found for found in at.button if found.label == label)


def words(at):
    """Every paragraph of the page."""
    return " ".join(found.value for found in at.markdown)


def headings(at):
    """The page's second-level headings."""
    return [found.value for found in at.header]


def test_the_answer_stays_hidden_until_the_reader_has_guessed():
    """Before: who shares which shard. After: the ratio, how far off, and the figures."""
    at = open_page(**SMALL)
    assert not at.exception and not headings(at)
    assert "Every rank keeps another of the 2 shards" in words(at)
    at.number_input(key="shard_bench.number").set_value(3.0).run()
    button(at, "Lock my guess").click().run()
    assert not at.exception
    assert "You said 3 times; it is 1.5 times." in words(at)
    assert headings(at) == [
        "What each stage leaves on a rank",
        "Gather, use, free",
        "What it sends",
        "On a real device",
    ]
    table = next(found.value for found in at.table if "largest model" in found.value.columns)
    assert list(table["largest model"]) == ["5 B", "19.1 B", "36.06 B", "320 B"]  # 64 x 80 GB
    at.number_input(key="devices").set_value(32)
    at.number_input(key="billions").set_value(1.0).run()
    nodes = next(found.value for found in at.table if "leaves a node" in found.value.columns)
    flat, hybrid = (nodes.set_index("groups").loc[name] for name in ("1 x 32", "4 x 8"))
    assert (flat["inside"], hybrid["inside"], hybrid["across"]) == (
        "5.81 GB",
        "5.25 GB",
        "0.375 GB",
    )
    assert hybrid["less"] == "1.94 x"


def test_a_rank_that_is_too_small_runs_out_of_memory_and_says_what_would_fit():
    """The failure a reader can reach: by stage, and where no stage helps."""
    plan = Plan.of(**{k: v for k, v in SMALL.items() if k != "steps"}, zero=0)
    between = 1 + max(shard_bench_runs.most(at_stage(plan, 3))["total"]) / 2**20
    at = open_page(**SMALL, zero=0, capacity_mib=0.2)
    button(at, "Skip").click().run()
    assert "Out of memory" in at.error[0].value
    at = open_page(**SMALL, zero=3, capacity_mib=between)
    button(at, "Skip").click().run()
    assert not at.error and "It fits" in at.success[0].value


def test_the_cursor_names_what_exists_at_an_instruction():
    """?at= opens on a moment; a number beyond the program is told in one sentence."""
    at = open_page(**SMALL, at=2)
    button(at, "Skip").click().run()
    assert "While instruction 2 (" in words(at)
    at = open_page(**SMALL, at=9999)
    button(at, "Skip").click().run()
    assert not at.exception and "Instruction 9999 is not in this program" in at.error[0].value


def test_a_pinned_plan_stands_beside_the_chosen_one():
    """Pin, then change: both columns, and the pin is in the address; nonsense there is told."""
    at = open_page(**SMALL)
    button(at, "Skip").click().run()
    button(at, "Pin as B").click().run()
    assert "pin" in at.query_params and "A against B" not in headings(at)
    at.number_input(key="zero").set_value(1).run()
    assert not at.exception and "A against B" in headings(at)
    pair = next(t.value for t in at.table if "A, chosen" in t.value.columns)
    first = pair.set_index("figure").loc["plan"]
    assert first["A, chosen"] == "dp=2 (ZeRO-1)" and first["B, pinned"] == "dp=2 (ZeRO-3)"
    broken = open_page(**SMALL, pin="dp=0")
    assert not broken.exception
    button(broken, "Skip").click().run()
    assert "The pinned plan in the address" in " ".join(e.value for e in broken.error)


def test_one_rank_and_a_step_too_long_are_told():
    """dp=1 shares with nobody; thousands of microbatches are refused before they are laid out."""
    assert "take dp=2 or more" in open_page(dp=1).info[0].value
    long = open_page(dp=2, microbatches=2048, global_batch=4096, seq=8)
    assert not long.exception and "Take fewer ranks" in long.info[0].value


def test_the_presets_are_plans_that_can_be_laid_out():
    """Each preset, taken from the page's defaults, is legal and small enough."""
    for fields in shard_bench.PRESETS.values():
        assert shard_bench._drawable(Plan.of(**fields))


@pytest.mark.live
def test_all_four_stages_run_and_every_byte_is_where_it_was_promised():
    """One press, four real runs: solid bars, equal traffic, readings equal to the outline."""
    at = open_page(**SMALL)
    button(at, "Run all four stages").click().run()
    end = time.monotonic() + 120
    while "The ledgers" not in [found.value for found in at.subheader]:
        assert time.monotonic() < end, words(at)
        time.sleep(0.3)
        at = at.run()
        assert not at.exception, at.exception[0].message
    assert "are equal to the prediction to the byte" in words(at)
    assert "They agree to the byte" in words(at)
    traffic = next(t.value for t in at.table if "a rank sends" in t.value.columns)
    line = traffic.set_index("a rank sends").loc["equal"]
    assert list(line) == ["yes"] * 4
    specs = [json.loads(found.proto.spec) for found in at.get("plotly_chart")]
    names = [trace.get("name") for spec in specs for trace in spec["data"]]
    assert "peak, measured" in names and "predicted" in names
    (player,) = at.get("bidi_component")
    kinds = {n: x["kind"] for n, x in json.loads(player.proto.bytes)["layers"].items()}
    assert kinds == {"trace": Kind.MEASURED, "own": Kind.REPLAYED, "model": Kind.MODELLED}
    page = " ".join(found.proto.body for found in at.get("html"))
    assert "max |parallel" in page

"""The memory river says what the plan, the program and the readings say, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.activations.saved import INPUT, saved_bytes, saved_rows
from parallel_core.cases import program_of
from parallel_core.cost import UnitCost
from parallel_core.outline import FOLLOWED, KINDS, Held, memory_outline
from parallel_core.peak import predicted_peak
from parallel_core.plan import Plan
from parallel_core.program import Lane, Op
from parallel_core.report import predict
from parallel_core.simulate import simulate
from parallel_core.sizes import flops
from parallel_core.trace import Kind, Span
from parallel_core.views import river_alive as alive
from parallel_core.views import river_blocks as blocks
from parallel_core.views import river_prices as prices
from parallel_core.views.river import River, river, total
from parallel_core.views.river_lanes import lanes, recomputed
from parallel_core.views.river_moments import moments, peak
from parallel_core.views.river_words import account

TINY = {"layers": 3, "hidden": 16, "heads": 4, "vocab": 16, "seq": 8, "global_batch": 12}
BEATS = {op: 1 + 0.0137 * i for i, op in enumerate(Op)}  # so that no two ends fall together

models = st.sampled_from(
    [
        {"dialect": "gpt", "dropout": 0.1},
        {"dialect": "gpt", "attention": "unfused"},
        {"dialect": "gpt"},
        {"dialect": "llama", "kv_heads": 2},
        {"dialect": "llama", "attention": "unfused", "tied": True},
    ]
)
layouts = st.sampled_from(
    [
        {},
        {"dp": 2},
        {"tp": 2},
        {"tp": 2, "sp": True},
        {"tp": 4, "sp": True},
        {"dp": 2, "tp": 2},
        {"dp": 2, "zero": 2},
        {"dp": 2, "zero": 3},
    ]
)
policies = st.sampled_from([*prices.POLICIES.values(), {"recompute": "selective", "offload": True}])
plans = st.builds(
    lambda model, layout, policy, m, dtype: Plan.of(
        **{**TINY, **policy, **model, **layout, "microbatches": m, "dtype": dtype}
        | ({"offload": False} if "zero" in layout else {})
    ),
    models,
    layouts,
    policies,
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["float32", "bfloat16"]),
)


def drawn(plan, *, rank=0, **more):
    """The river of a plan before any run."""
    trace, steps = predict(plan), program_of(plan)
    found = moments(plan, steps, trace, rank)
    again = recomputed(plan, steps, trace, rank)
    return River(trace=trace, rank=rank, moments=found, again=again, **more)


# -- what exists -----------------------------------------------------------------------------------


@given(plans)
@settings(max_examples=40)
def test_blocks_add_up_to_the_outline_at_every_moment(plan):
    """The parts behind a moment have the bytes of outline.py, kind by kind, host included."""
    steps = program_of(plan)
    trace = simulate(steps, UnitCost(beats=BEATS))
    settled = replace(trace, spans=tuple(replace(span, step=1) for span in trace.spans))
    rank = plan.world_size - 1
    found = moments(plan, steps, trace, rank)
    works = {span.index for span in trace.by_rank[rank] if span.duration and span.op != Op.WAIT}
    outline = [row for row in memory_outline(plan, steps, settled) if row.rank == rank]
    want = {row.index: [row[kind] for kind in FOLLOWED] for row in outline if row.index in works}
    got = {m.at: [m.bytes[kind] for kind in FOLLOWED] for m in found if m.over and m.at in works}
    assert got == want
    for moment in (m for m in found if not m.over):
        parts = alive.existing(plan, steps, trace, rank=rank, at=moment.at)
        sums = {kind: sum(p.size for p in parts if p.kind == kind) for kind in FOLLOWED}
        assert sums == dict(moment.bytes), moment
        owners = alive.by_owner(parts)
        assert sum(p.size for p in owners) == sum(sums.values())
        assert len({(p.kind, p.unit, p.mb) for p in owners}) == len(owners)


@given(plans)
@settings(max_examples=40)
def test_no_modelled_moment_is_above_the_peak_that_any_timing_allows(plan):
    """And where no second lane moves memory it is reached."""
    found = peak(drawn(plan).moments).total
    most = predicted_peak(plan, program_of(plan))["total"][0]
    assert found == most if not plan.offload and not plan.zero else found <= most


@given(plans)
@settings(max_examples=40)
def test_a_layer_is_its_formulas(plan):
    """Each row's letters multiply to its bytes, and what is marked as kept is what is saved."""
    whole = saved_rows(plan.but(recompute="none", recompute_every=1), "layer0")
    found = blocks.blocks(plan)
    assert {block.name: block.size for block in found} == whole
    for name, size in whole.items():
        assert blocks.value(plan, *blocks.formula(plan, name)) == size, name
    kept = sum(block.size for block in found if block.kept)
    if saved_rows(plan, "layer0").keys() == {INPUT} and not plan.mixed:
        assert [b.name for b in found if b.kept] == ["attn norm input"]
    assert kept == saved_bytes(plan, "layer0")


def test_the_words_of_a_layer_tell_when_measured_is_something_else():
    """One byte more on live tensors is NOT the same."""
    plan = Plan.of(**TINY, recompute="selective", attention="unfused", dialect="gpt")
    kept = saved_bytes(plan, "layer0")
    assert "the same to the byte" in blocks.account(plan, kept)
    assert "NOT the same" in blocks.account(plan, kept + 1)
    assert f"D = {TINY['hidden']}" in blocks.legend(plan)


# -- what is computed again ------------------------------------------------------------------------


@given(plans)
@settings(max_examples=40)
def test_every_recomputation_lies_inside_its_backward(plan):
    """One for each backward of a layer that the policy names, as long as its share of FLOPs."""
    trace, steps = predict(plan), program_of(plan)
    found = recomputed(plan, steps, trace, 0)
    names = {f"layer{i}" for i in range(0, 3, plan.recompute_every)}
    backwards = {s.index: s for s in trace.by_rank[0] if s.op == Op.B and s.where in names}
    assert [a.index for a in found] == ([*backwards] if plan.recompute != "none" else [])
    once = flops(plan.but(recompute="none", recompute_every=1))
    for again in found:
        span, instr = backwards[again.index], steps.ranks[0][again.index]
        assert span.t_start <= again.start < again.done <= span.t_done
        assert (again.start == span.t_start) == (plan.recompute == "full")
        share = 1 - once(instr) / flops(plan)(instr)
        assert again.done - again.start == pytest.approx(share * span.duration, abs=2)
        assert again.modelled


def test_a_reading_inside_a_backward_ends_its_recomputation():
    """Under full recomputation both ends are then measured; the last reading of a span is none."""
    plan = Plan.of(**TINY, recompute="full")
    trace, steps = predict(plan), program_of(plan)
    span = next(s for s in trace.by_rank[0] if s.op == Op.B and s.where == "layer2")
    inside = Held(0, 0, span.index, span.t_start + 7, 1, 1, 1, 9)
    after = Held(0, 0, span.index, span.t_done + 1, 1, 1, 1, 1)
    found = recomputed(plan, steps, trace, 0, readings=[after, inside])
    (seen,) = [again for again in found if not again.modelled]
    assert (seen.index, seen.start, seen.done) == (span.index, span.t_start, span.t_start + 7)
    assert all(again.modelled for again in recomputed(plan, steps, trace, 0, readings=[after]))
    marks = [m for m in lanes(trace, 0, found).solid if m.look == "recompute"]
    assert [m.right - m.left for m in marks] == [pytest.approx(7e-6)]


# -- the figure ------------------------------------------------------------------------------------


def bands(figure):
    """The stacked bands, bottom first."""
    return [t for t in figure.data if getattr(t, "stackgroup", None) == "state"]


def named(figure, name):
    """The traces of that name."""
    return [t for t in figure.data if t.name == name]


def test_the_river_stacks_what_was_measured_under_what_was_predicted():
    """Before a run the bands are the outline; after it the readings, the outline on top."""
    plan = Plan.of(**TINY, recompute="full", dp=2)
    bare = drawn(plan, rank=1)
    figure = river(bare)
    want = [[m.bytes[kind] for m in bare.moments] for kind in KINDS]
    assert [list(band.y) for band in bands(figure)] == want
    assert not named(figure, "predicted") and not named(figure, "on the host")
    readings = [Held(1, 0, m.at, m.time, 1, 2, 3, 4) for m in bare.moments if m.over]
    ran = replace(bare, measured=readings, capacity=1e6, rival=[(0.0, 5)], rival_name="B")
    figure = river(ran, dark=True)
    assert [set(band.y[1:]) for band in bands(figure)] == [{1}, {2}, {3}, {4}]
    assert list(named(figure, "predicted")[-1].y) == [m.total for m in bare.moments]
    (dots,) = named(figure, "moments")
    assert list(dots.customdata) == [m.at for m in bare.moments if not m.over]
    assert any("capacity" in note.text for note in figure.layout.annotations)
    assert any("measured 10 B" in note.text for note in figure.layout.annotations)
    assert named(figure, "total of B") and ran.most == 1e6


def test_offloading_has_a_host_of_its_own_and_a_lane_of_copies():
    """Out and back for every layer but the last, each microbatch; the device's bands without."""
    plan = Plan.of(**TINY, offload=True, microbatches=2)
    shown = drawn(plan)
    figure = river(shown)
    (host,) = named(figure, "on the host")
    assert max(host.y) == shown.at_host == max(m.bytes["host"] for m in shown.moments) > 0
    assert max(m.total for m in shown.moments) == max(
        map(sum, zip(*(b.y for b in bands(figure)), strict=True))
    )
    rows = lanes(shown.trace, 0, ())
    assert rows.names == ("compute", "host copies")
    assert len([m for m in rows.solid if m.row == 1]) == 2 * 2 * (TINY["layers"] - 1)
    assert "host" not in "".join(lanes(drawn(Plan.of(**TINY)).trace, 0, ()).names)


def test_messages_inside_tasks_are_drawn_where_a_run_stamped_them():
    """A modelled step has none; a stamp stands in the row of the messages."""
    trace = drawn(Plan.of(**TINY)).trace
    assert lanes(trace, 0, ()).names == ("compute",)
    inside = (("all_gather", "tp", "region[0]", 64, 10, 30),)
    first, *rest = trace.by_rank[0]
    stamped = replace(trace, spans=(replace(first, inside=inside), *rest))
    found = lanes(stamped, 0, ())
    assert found.names == ("compute", "messages")
    (mark,) = [m for m in found.solid if m.row == 1]
    assert (mark.label, mark.look) == ("G", "collective") and "inside F embed" in mark.hover


@given(plans, st.booleans())
@settings(max_examples=15)
def test_every_plan_can_be_drawn_and_told(plan, dark):
    """Light or dark; the words name the peak and every kind."""
    shown = drawn(plan)
    assert river(shown, at=shown.moments[0].at, dark=dark).data
    words = account(shown)
    assert shown.top.words in words and "activations" in words
    assert ("compute something again" in words) == (plan.recompute != "none")
    assert ("the host's memory" in words) == plan.offload


def test_the_words_say_on_which_side_of_the_plan_a_measurement_is():
    """Equal, below, and MORE than the plan allows."""
    shown = drawn(Plan.of(**TINY, recompute="selective"))
    top = shown.top
    for more, said in ((0, "to the byte"), (-5, "5 bytes below"), (3, "3 bytes MORE")):
        row = Held(0, 1, 0, top.time, 0, 0, 0, top.total + more)
        assert total(row) == top.total + more
        assert said in account(replace(shown, measured=[row]))
    assert "more than the capacity" in account(replace(shown, capacity=top.total - 1))
    assert "more than the capacity" not in account(replace(shown, capacity=float(top.total)))


# -- the prices ------------------------------------------------------------------------------------


def priced(**ran):
    """The policies of a tiny plan; `ran` by name."""
    found = []
    for name, fields in prices.POLICIES.items():
        plan = Plan.of(**{**TINY, "attention": "unfused", **fields})
        peak = predicted_peak(plan, program_of(plan))
        step = predict(plan).makespan
        found.append(
            prices.Price(
                name=name,
                plan=plan,
                peak=max(peak["total"]),
                activations=max(peak["activations"]),
                modelled=step,
                flops=1.0,
                ran=ran.get(name.split(",")[0]),
            )
        )
    return found


def a_run(*own, sums=((1.0, 2.0),), peak=100):
    """A run whose steps took `own` milliseconds, on both clocks."""
    return prices.Ran(peak=peak, activations=peak // 2, wall=own, own=own, sums=sums)


def test_a_policy_is_priced_against_keeping_all():
    """Median over median, with the range of its steps; bytes of the same kind of run."""
    assert prices.times((30.0, 20.0, 40.0), (10.0, 10.0, 99.0)) == (3.0, 2.0, 4.0)
    whole, full = a_run(10.0, 10.0, 12.0), a_run(13.0, 14.0, 15.0, peak=25)
    both = priced(**{"keep all": whole, "full": full})
    tables = zip(prices.won(both), prices.paid(both), strict=True)
    row = next(won | paid for won, paid in tables if won["policy"] == "full")
    assert row["own device"] == "14 ms, 1.40 x (1.30 to 1.50)"
    assert row["measured"] == "25 B" and "4.17 times less" in row["activations"]
    assert prices.paid(both)[1]["wall clock"] == prices.NOT_YET
    assert "own-device step 1.40 times" in prices.account(both)


def test_one_bit_in_one_step_is_another_gradient():
    """Equal sums are the same; a last bit that differs is told; one run alone says nothing."""
    one, two = a_run(1.0), a_run(2.0, sums=((1.0, 2.0000000000000004),))
    assert prices.same_sums(priced(**{"keep all": one})) is None
    assert prices.same_sums(priced(**{"keep all": one, "offload": one})) is True
    assert prices.same_sums(priced(**{"keep all": one, "offload": two})) is False


def test_what_fits_is_named_from_the_cheapest_on():
    """Nothing below the smallest peak; all of them above the largest."""
    found = priced()
    sizes = sorted(price.peak for price in found)
    assert not prices.room_for(found, sizes[0] - 1)
    room = prices.room_for(found, sizes[-1])
    assert len(room) == len(found)
    assert [p.modelled for p in room] == sorted(p.modelled for p in found)


@pytest.mark.parametrize("dark", [False, True])
def test_the_trade_has_a_hollow_dot_a_policy_and_a_solid_one_a_run(dark):
    """Along x the step against keeping all, with the spread of the run's steps."""
    ran = {"keep all": a_run(10.0, 12.0), "offload": a_run(11.0, 33.0, peak=60)}
    figure = prices.trade(priced(**ran), capacity=1e5, dark=dark)
    hollow, solid = figure.data
    assert len(hollow.x) == len(prices.POLICIES) and hollow.x[0] == 1
    assert list(solid.text) == ["keep all", "offload"] and list(solid.y) == [100, 60]
    assert list(solid.x) == [1, 2] and list(solid.error_x.array) == [12 / 11 - 1, 1]
    assert "symbol" in str(hollow.marker) and hollow.marker.symbol != solid.marker.symbol
    assert len(prices.trade(priced()).data) == 1


def test_steps_leave_the_first_out():
    """It warms up; a single step is all there is."""
    shape = {"rank": 0, "index": 0, "lane": Lane.COMPUTE, "op": Op.F}
    spans = [Span(step=s, t_post=0, t_start=0, t_done=10**6 * (5 - s), **shape) for s in range(3)]
    trace = replace(predict(Plan.of(**TINY)), spans=tuple(spans))
    assert trace.kind is Kind.MODELLED and prices.steps_ms(trace) == [4.0, 3.0]
    assert prices.steps_ms(trace.only(0)) == [5.0]

"""The context ring's figures: each tile once under its rank, time as long as work and bytes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core import places
from parallel_core.context import METHODS, layout_of
from parallel_core.context.layout import Layout, Travels, in_step, work
from parallel_core.context.traffic import LayerShape
from parallel_core.plan import Plan
from parallel_core.program import Lane
from parallel_core.trace import Kind, Provenance, Span, Trace
from parallel_core.views import context_plans, context_quoted, context_ring, context_stamps
from parallel_core.views.context_clock import Clock, account
from parallel_core.views.context_map import Paint, drawn, in_words, tiles
from parallel_core.views.palette import contrast

NODE = shutil.which("node")
RANKS = st.sampled_from([2, 3, 4, 8])


def clock(method="zigzag", n=4, seq=64, **more):
    """A layer's forward with eight heads; `more` are the clock's fields, and kv_heads."""
    shape = LayerShape(
        layout=layout_of(method, seq, ranks=n),
        batch=1,
        heads=24,
        kv_heads=more.pop("kv_heads", 24),
        head_dim=16,
    )
    return Clock(method=method, shape=shape, **more)


# -- the clock -------------------------------------------------------------------------------------


@given(RANKS, st.sampled_from(["ring", "zigzag"]), st.booleans())
def test_a_ring_takes_what_its_slowest_rank_takes_hop_by_hop(n, method, causal):
    """Without messages the clock is layout.in_step, and each rank's bars are its work."""
    shown = clock(method, n, seq=16 * n, causal=causal)
    table = work(shown.shape.layout, causal)
    assert Fraction(shown.total) == in_step(table)
    assert list(shown.totals) == [float(sum(row)) for row in table]


def test_the_lessons_numbers():
    """N=4: 0.5, 1.5, 2.5, 3.5 against 2 each; 1.75 times. The first chunk has the least."""
    contiguous, zigzag = clock("ring"), clock("zigzag")
    assert contiguous.totals == (0.5, 1.5, 2.5, 3.5) and zigzag.totals == (2.0,) * 4
    assert (contiguous.total, zigzag.total) == (3.5, 2.0)
    assert (contiguous.name, zigzag.name) == ("ring, contiguous", "zigzag")
    assert clock("ring", 8).total / clock("zigzag", 8).total == 1.875
    assert clock("ring", causal=False).total == clock("zigzag", causal=False).total == 4.0
    assert contiguous.idle == pytest.approx(3 / 7) and zigzag.idle == 0


@given(RANKS, st.sampled_from(list(METHODS)), st.booleans(), st.floats(0, 5000), st.booleans())
def test_beats_follow_one_another_and_none_is_shorter_than_its_work_or_its_bytes(
    n, method, causal, balance, overlap
):
    """A beat lasts as long as its slowest rank and its message; together they are the whole."""
    if method == "hybrid" and n % 2:
        n += 1
    shown = clock(method, n, seq=16 * n, causal=causal, balance=balance, overlap=overlap)
    assert shown.beats[0].start == 0
    for one, two in zip(shown.beats, shown.beats[1:], strict=False):
        assert one.end == two.start
    for beat in shown.beats:
        least = max(max(beat.tiles), beat.message)
        alone = max(beat.tiles) + beat.message
        assert beat.length == pytest.approx(least if overlap or beat.hop is None else alone)
    every = sum(shown.totals) * shown.shape.layout.ulysses
    pairs = n * n if not causal else n * n / 2
    assert every == pytest.approx(pairs), "all ranks together compute the whole matrix"
    assert sum(beat.message for beat in shown.beats) == pytest.approx(shown.message(shown.moves))


def test_a_hop_hides_from_the_published_number_of_tokens_on():
    """At that length a message lasts just as long as a tile, and half of one at twice."""
    plan = Plan.of(cp=4, cp_method="ring", heads=8, kv_heads=2, hidden=64, dtype="bfloat16")
    whole, half = context_plans.hides(plan, 1000.0)
    for tokens, tile in ((whole, 1.0), (half, 0.5)):
        at = plan.but(seq=round(tokens))
        shown = Clock(method="ring", shape=context_plans.shape_of(at, "ring"), balance=1000.0)
        assert shown.beats[0].message == pytest.approx(tile, rel=1e-3)


def test_the_account_names_the_idle_rank_and_the_message():
    """A sentence a beat; hop 1 of the contiguous ring finds rank 0 without work."""
    lines = account(clock("ring", balance=100))
    assert len(lines) == 4 and "compute 0, 1, 1, 1 tiles; shift kv" in lines[1]
    assert "keys come from 3, 0, 1, 2" in lines[1]
    assert "queries come from 3, 0, 1, 2" in account(clock("pass-q"))[1]
    lines = account(clock("ulysses", balance=100))
    assert lines[0].startswith("Nothing is computed") and "all_to_all qkv" in lines[0]
    assert "all_to_all a" in lines[2]


# -- the map ---------------------------------------------------------------------------------------


@given(RANKS, st.sampled_from(list(METHODS)), st.booleans())
def test_each_tile_is_drawn_once_by_the_rank_that_computes_it(n, method, causal):
    """Every chunk pair of the mask once a share of heads; its rank from whose turn it is."""
    if method == "hybrid" and n % 2:
        n += 1
    shown = clock(method, n, seq=16 * n, causal=causal)
    layout = shown.shape.layout
    chunks = layout.rings * (2 if layout.zigzag else 1)
    steps = drawn(layout, causal=causal, travels=shown.travels)
    places_ = [(step.q_chunk, step.k_chunk) for step in steps]
    want = {(q, k) for q in range(chunks) for k in range(chunks) if k <= q or not causal}
    assert len(places_) == len(want) and set(places_) == want
    for step in steps:  # who stays at home computes: its queries, or under pass-Q its keys
        home = step.k_chunk if shown.travels == Travels.Q else step.q_chunk
        assert home in layout.chunks(step.ring)
    figure = tiles(shown, Paint(n))
    assert figure.count('class="t"') == len(want) * layout.ulysses
    for share in range(layout.ulysses):
        for step in steps:
            says = f"<title>rank {step.ring * layout.ulysses + share}, hop {step.hop}: "
            assert says + f"queries {step.q_chunk}, keys {step.k_chunk}<" in figure


def test_the_first_chunk_has_the_fewest_tiles():
    """Not the most, as some pictures have it: rank 0 computes one tile, rank 3 four."""
    figure = tiles(clock("ring"), Paint(4))
    counts = [len(re.findall(f"<title>rank {rank}, ", figure)) for rank in range(4)]
    assert counts == [1, 2, 3, 4]


def test_padding_has_no_tile():
    """A sequence shorter than its chunks are many: only chunks with a token are drawn."""
    layout = Layout(seq=5, ranks=4, zigzag=True)
    found = drawn(layout, causal=True, travels=Travels.KV)
    assert max(step.q_chunk for step in found) == 4


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_are_readable_on_every_tile(dark):
    """At least 4.5 to 1 for as many ranks as the page takes."""
    for ranks in (4, 16):
        for rank in range(ranks):
            style = Paint(ranks, dark).style(rank)
            fill, letters = re.findall(r"--[ci]:(#\w+)", style)
            assert contrast(fill, letters) >= 4.5


def test_the_words_tell_the_cut_the_mask_and_the_work():
    """What the figure's label says to those who cannot see it."""
    said = in_words(clock("ring"))
    assert "causal mask, cut contiguous, ring" in said and "0.5, 1.5, 2.5, 3.5 tiles" in said
    assert "deal out its heads" in in_words(clock("hybrid"))


# -- the whole figure ------------------------------------------------------------------------------


@given(RANKS, st.sampled_from(["ring", "zigzag", "pass-q"]), st.floats(0, 500))
def test_bars_are_as_wide_as_their_time(n, method, balance):
    """In per cent of the longest rival: a bar's width is its tiles, the flag its end."""
    plan = Plan.of(cp=n, cp_method=method, seq=32 * n, heads=8, hidden=64)
    shape = context_plans.shape_of(plan, method)
    shown = Clock(method=method, shape=shape, balance=balance)
    others = context_plans.rivals(shown, plan)
    assert [each.method for each in others[:2]] == ["ring", "zigzag"] and shown in others
    data = context_ring.payload(shown, others, run="x")
    assert data["end"] == max(each.total for each in others)
    race = data["figure"].split('class="race"')[1]
    wide = [float(w) for w in re.findall(r'class="t bar"[^>]*width:([\d.]+)%', race)]
    want = [
        100 * beat.tiles[member] / data["end"]
        for each in others
        for member in range(n)
        for beat in each.beats
        if beat.tiles[member]
    ]
    assert wide == pytest.approx(want, abs=1e-3)
    ends = [float(left) for left in re.findall(r'class="end" style="left:([\d.]+)%', race)]
    assert ends == pytest.approx([100 * each.total / data["end"] for each in others], abs=1e-3)
    assert json.loads(json.dumps(data)) == data


def test_what_travels_is_drawn_only_where_something_travels():
    """A guest a member, kv or q; none for an all-gather and for Ulysses alone."""
    for method, guests in (("zigzag", 4), ("pass-q", 4), ("hybrid", 2), ("ulysses", 0),
                           ("allgather", 0)):  # fmt: skip
        shown = clock(method)
        figure = context_ring.figure(shown, [shown])
        assert figure.count('class="guest b"') == guests, method
    assert ">q 0<" in context_ring.figure(clock("pass-q"), [clock("pass-q")])


@pytest.mark.skipif(NODE is None, reason="needs node: apt install nodejs")
def test_the_scripts_own_tests_pass():
    """`node --test`, on the pure functions."""
    script = str(places.assets() / "context.test.mjs")
    done = subprocess.run([str(NODE), "--test", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-4000:]


# -- bytes and stamps ------------------------------------------------------------------------------


def test_bytes_of_every_method_are_those_of_its_messages():
    """Eight heads over four ranks: all methods, one with a run; three heads: two say why not."""
    plan = Plan.of(cp=4, heads=8, hidden=64, seq=64)
    found = {one.method: one for one in context_plans.traffic(plan, {"ring": 1.0})}
    assert list(found) == list(METHODS) and not any(one.refused for one in found.values())
    assert found["ring"].sent[0] == found["allgather"].sent[0] == found["zigzag"].sent[0]
    assert found["ulysses"].total < found["hybrid"].total < found["ring"].total
    rows = {row["method"]: row for row in context_plans.rows(list(found.values()))}
    assert rows["ring"]["counted in a run"].startswith("1 bytes, predicted")
    same = replace(found["ring"], counted=float(found["ring"].total))
    assert context_plans.rows([same])[0]["counted in a run"].endswith("bytes = predicted")
    refused = context_plans.traffic(plan.but(heads=1), {})
    assert {one.method for one in refused if one.refused} == {"ulysses", "hybrid"}


def test_what_a_report_counted_is_given_a_layer_and_microbatch():
    """Only the axes of attention; the sums of gradients are another axis."""
    plan = Plan.of(cp=4, heads=8, hidden=64, seq=64, layers=2, global_batch=2, microbatches=2)
    wire = {"cp": {"shift": {"wire_bytes": 4 * 2 * 2 * 3 * 100}}, "dp": {"x": {"wire_bytes": 7}}}
    report = {"ledger": {"wire": {"measured": wire}}, "steps": [{}] * 3}
    assert context_plans.counted(report, plan) == 100


def stamped():
    """Two ranks' forward of a layer, with two hops each and a message of another axis."""
    spans = []
    for rank in range(2):
        inside = (
            ("shift", "cp", "cp_kv[0]", 100, 1_000_000, 2_000_000),
            ("all_reduce", "tp", "x", 5, 2_000_000, 2_500_000),
            ("shift", "cp", "cp_kv[0]", 100, 2_500_000, 3_000_000),
        )
        spans.append(
            Span(rank=rank, step=1, index=1, lane=Lane.COMPUTE, op="F", where="layer0", mb=0,
                 t_post=0, t_start=500_000, t_done=4_000_000, inside=inside)
        )  # fmt: skip
    return Trace(tuple(spans), Provenance(kind=Kind.MEASURED, title="made up"), 2)


def test_stamps_are_those_of_the_trace_hop_by_hop():
    """Numbered by what they carry; other axes are left out; drawn where they were."""
    trace = stamped()
    found = context_stamps.tasks(trace, "F", "layer0")
    assert [task.rank for task in found] == [0, 1]
    assert context_stamps.tasks(trace, "B", "layer0") == []
    each = context_stamps.stamps(found[0])
    assert [(s.what, s.number, s.start) for s in each] == [
        ("kv", 0, 1_000_000),
        ("kv", 1, 2_500_000),
    ]
    assert [row["after the task began"] for row in context_stamps.table(found)][:2] == [
        "500 µs",
        "2 ms",
    ]
    figure = context_stamps.figure(found, trace)
    bars = {bar.name: bar for bar in figure.data if bar.type == "bar"}
    assert list(bars["collective"].base) == pytest.approx([0.5, 2.0] * 2)
    assert list(bars["collective"].x) == pytest.approx([1.0, 0.5] * 2)
    assert "measured" in figure.layout.annotations[-1].text


# -- what is printed -------------------------------------------------------------------------------


def test_the_published_rule_misses_two_rows_by_little():
    """12 of 14, as the table's notes say; our model crosses before the published times do."""
    assert context_quoted.agreement() == (12, 14)
    wrong = [point for point in context_quoted.published() if not point.agrees]
    assert all(abs(point.ratio - 1) < 0.015 for point in wrong)
    assert "12 of 14 rows" in context_quoted.in_words()
    model = dict(context_quoted.modelled())
    assert model[1.0] < 1 < model[100]
    figure = context_quoted.crossover()
    quoted = [p for trace in figure.data if "quoted" in trace.name for p in trace.x]
    assert len(quoted) == 14


def test_printed_tables_are_quoted_with_their_source():
    """Each row, and the caption that says where it stands."""
    for name, rows in context_quoted.TABLES.items():
        assert rows() and "quoted: " in context_quoted.caption(name) and context_quoted.title(name)
    late = {(row["new tokens"], row["variant"]): row["not hidden"] for row in context_quoted.hops()}
    assert late[("2.5 %", "pass-KV")] == "639 µs" and late[("2.5 %", "pass-Q")] == "424 µs"
    assert late[("10 %", "pass-KV")] == "0 µs" and late[("10 %", "pass-Q")] == "1023 µs"

"""What the context page draws of its measurements: crossings, overlap replayed, bf16's error."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pipeline_runs import run_all

from parallel_core.cases import program_of
from parallel_core.context import rounding
from parallel_core.cost import Link
from parallel_core.plan import Plan
from parallel_core.program import Lane
from parallel_core.replay import fit_link, replay
from parallel_core.trace import Kind, Provenance, Span, Trace
from parallel_core.views import (
    context_measured,
    context_overlap,
    context_quoted,
    context_rounding,
)

AT_REST = "still, overlap on"


def report() -> dict[str, Any]:
    """A crossover of two numbers of key/value heads, made up."""

    def case(kv: int, share: float, ratio: float) -> dict[str, Any]:
        each = {"median": 2.0, "low": 1.0, "high": 3.0, "spread": 1.0, "n": 6, "unit": "ms"}
        return {
            "kv_heads": kv, "share": share, "new": round(64 * share),
            "hop_bytes": {"pass-kv": 1024 * kv, "pass-q": 512},
            "ms": {"pass-kv": each, "pass-q": each},
            "ratio": {**each, "median": ratio, "low": 0.9 * ratio, "high": 1.1 * ratio},
        }  # fmt: skip

    found = [case(kv, share, 2 * share / kv) for kv in (2, 1) for share in (0.25, 1.0)]
    for at, kv in ((1, 2), (3, 1)):
        found[at]["group"] = {
            "kv_heads": kv, "heads": 2,
            "crosses": {"median": 50.0 * kv, "low": 40.0, "high": 100.0},
            "q_is_smaller": 100.0, "q_sends_less": 48.0 * kv, "rule": 30.0 * kv,
            "rule_with_the_way_home": 20.0 * kv,
        }  # fmt: skip
    return {"settings": {"cases": found, "flops_a_byte": 512.0}, "warnings": []}


# -- the crossover -------------------------------------------------------------------------------


def test_measured_points_stand_in_the_chart_of_the_printed_ones():
    """Those of the fewest key/value heads, each with its interval; nothing printed is lost."""
    plain = context_quoted.crossover(more=["measured: here"])
    drawn = context_measured.add_ratios(context_quoted.crossover(), report(), dark=False)
    *before, here = drawn.data
    assert len(before) == len(plain.data)
    assert (list(here.x), list(here.y)) == ([25.0, 100.0], [0.5, 2.0])
    assert list(here.error_y.array) == pytest.approx([0.05, 0.2])
    assert "measured: here" in plain.layout.annotations[-1].text


def test_every_crossing_stands_over_its_rules():
    """Fewest heads first; lines are the rules, the diamond is where the printed times cross."""
    drawn = {line.name: line for line in context_measured.borders(report(), badge="measured").data}
    here = drawn["measured: times cross"]
    assert (list(here.x), list(here.y)) == ([0.5, 1.0], [50.0, 100.0])
    assert list(drawn["the published rule"].y) == [30.0, 60.0]
    assert list(drawn["quoted: H100, 400 Gb/s"].x) == [1 / 16]
    assert 5 <= context_measured.quoted_crossing() < 10
    said = context_measured.in_words(report())
    assert "1 of 2 heads: 50 % (40 to 100); the rule says 30 %, with the way home 20 %" in said
    assert context_measured.rows(report())[0]["a hop of kv"] == "2,048 bytes"


# -- overlap -------------------------------------------------------------------------------------


def ran(plan: Plan) -> Trace:
    """A run of one step in which every task took 8 ms of its own, and messages as long as here."""
    program, spans = program_of(plan), []
    for rank, instrs in enumerate(program.ranks):
        for index, instr in enumerate(instrs):
            begin = 20_000_000 * index
            inside = tuple(
                (m.op.value, m.axis, str(m.value), 1024, begin, begin + 1_000_000)
                for m in instr.inner
                if not instr.op.is_message
            )
            spans.append(
                Span(rank=rank, step=0, index=index, lane=instr.lane, op=instr.op.value,
                     where=instr.where, mb=instr.mb, t_post=begin, t_start=begin,
                     t_done=begin + 8_000_000, cpu_ns=8_000_000, inside=inside)
            )  # fmt: skip
    return Trace(tuple(spans), Provenance(kind=Kind.MEASURED, title="made up"), plan.world_size)


@pytest.mark.parametrize("method", ["ring", "zigzag", "pass-q"])
def test_overlap_exposes_less_of_the_same_messages(method):
    """One run, one link, both programs: the same work, and less standing still with overlap."""
    plan = Plan.of(cp=4, cp_method=method, heads=4, hidden=32, seq=4096, layers=1)
    trace, link = ran(plan), Link(alpha=1e-6, beta=1e9)
    seen = {}
    for ahead in (True, False):
        one = plan.but(overlap_cp=ahead)
        seen[ahead] = replay(one, program_of(one), trace, link=link)
    on, off = (context_overlap.exposed(seen[ahead]) for ahead in (True, False))
    assert sum(s.cpu_ns for s in seen[True].spans) == sum(s.cpu_ns for s in seen[False].spans)
    assert 0 <= on.exposed < off.exposed and on.step < off.step
    assert on.hidden > 0
    assert "stands still" in context_overlap.in_words(on, off)
    both = context_overlap.figures(seen[True], seen[False], op="F", where="layer0")
    assert both is not None
    assert both[0].layout.xaxis.range == both[1].layout.xaxis.range
    rows = context_overlap.table(seen[True], seen[False], op="F", where="layer0")
    assert [row["rank"] for row in rows] == ["0", "1", "2", "3"] and " of " in rows[0][AT_REST]
    assert context_overlap.figures(trace, trace, op="F", where="layer9") is None


def test_exposed_is_what_a_task_does_not_compute():
    """Ten milliseconds with six of its own are four of standing still; other axes do not count."""
    inside = (("shift", "cp", "cp_kv[0]", 1, 0, 5_000_000),)
    task = Span(rank=0, step=0, index=0, lane=Lane.COMPUTE, op="F", where="layer0", mb=0, t_post=0,
                t_start=0, t_done=10_000_000, cpu_ns=6_000_000, inside=inside)  # fmt: skip
    other = replace(task, index=1, inside=(("all_reduce", "tp", "x", 1, 0, 1),))
    found = context_overlap.exposed(
        Trace((task, other), Provenance(kind=Kind.REPLAYED, title="made up"), 2)
    )
    assert (found.exposed, found.open, found.step) == (2.0, 2.5, 10.0)
    assert found.hidden == pytest.approx(0.2)


@pytest.mark.live
def test_a_real_run_replayed_hides_its_hops(pool):
    """Zigzag on four real ranks: with overlap a rank stands still for less."""
    plan = Plan.of(cp=4, hidden=64, heads=4, seq=1024, layers=1, global_batch=1, vocab=64)
    (done,) = run_all(pool, [plan])
    spans = tuple(span for row in done.spans for span in row)
    trace = Trace(spans, Provenance(kind=Kind.MEASURED, title="run"), plan.world_size)
    link = fit_link(trace, program_of(plan))
    exposed = []
    for ahead in (True, False):
        one = plan.but(overlap_cp=ahead)
        exposed.append(context_overlap.exposed(replay(one, program_of(one), trace, link=link)))
    assert exposed[0].exposed < exposed[1].exposed


# -- bfloat16 ------------------------------------------------------------------------------------


def test_float32_sums_do_not_notice_the_ring():
    """Each merge in bfloat16 adds its rounding: more ranks, more error, in all four tensors."""
    found = list(rounding.errors((1, 2, 8), seq=256))
    by = {(one.kept, one.ranks): one for one in found}
    for name in ("a", "dq", "dk", "dv"):
        wide = [getattr(by["float32", n], name) for n in (1, 2, 8)]
        narrow = [getattr(by["bfloat16", n], name) for n in (1, 2, 8)]
        assert max(wide) <= 1.02 * min(wide) <= 0.005
        assert narrow[0] < narrow[1] < narrow[2] and narrow[2] > 4 * wide[2]


def test_the_errors_are_drawn_as_they_were_found():
    """A line a type and tensor; the worst gradient is the worst of three."""
    rows = [
        {"kept": kept, "ranks": n, "a": 0.01 * n, "dq": 0.02, "dk": 0.05, "dv": 0.03}
        for kept in ("float32", "bfloat16")
        for n in (1, 4)
    ]
    drawn = {line.name: line for line in context_rounding.figure(rows, badge="measured").data}
    assert len(drawn) == 4
    assert list(drawn["sums in bfloat16: the result"].y) == pytest.approx([1, 4])
    assert list(drawn["sums in float32: the worst gradient"].y) == pytest.approx([5, 5])
    assert "Sums kept in float32: 1 % on one rank, 4 % on 4 ranks" in context_rounding.in_words(
        rows
    )
    assert json.dumps(rows)


@pytest.mark.live
@pytest.mark.parametrize("n", [2, 4])
def test_the_ring_that_is_played_is_the_ring_that_runs(n, on_ranks):
    """a, dq, dk, dv of n real ranks are bit for bit those of one process that plays them."""
    for told in on_ranks(n, "context_rounding_targets:beside_the_played", seq=128):
        assert told == {kept: [True] * 4 for kept in rounding.KEPT}

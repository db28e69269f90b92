"""The benches of pipelines compare like with like, and say so when they do not. Nothing is timed
here: how fast is a matter of the machine, that both sides did the same work is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from parallel_core.analysis.bubble import bubble
from parallel_core.bench import bubble as bubbles
from parallel_core.bench import pipeline, simulate
from parallel_core.bench.interleave import OURS, PEER, turns
from parallel_core.cases import program_of
from parallel_core.cli import bench_command
from parallel_core.cost import Link, UnitCost
from parallel_core.fields import PlanError
from parallel_core.pipeline_forecast import forecast
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.replay import replay
from parallel_core.report import RunView
from parallel_core.simulate import simulate as simulated
from parallel_core.trace import Kind, Trace

TINY = {"layers": 2, "hidden": 16, "heads": 2, "seq": 8, "microbatches": 4, "global_batch": 4}
QUICK = pipeline.Race(rounds=1, warmup=1)
FREE = Link(alpha=0.0, beta=1e30)


def silent(text: str) -> None:
    """A bench's progress, unheard."""


def invoke(*words: str) -> dict[str, Any]:
    """What `shardlab bench ...` printed on stdout, as JSON."""
    done = CliRunner().invoke(bench_command.command, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


# -- ours beside torch's -------------------------------------------------------------------------


def results(loss: float = 2.0, gradient: float = 0.0, seconds: float = 0.4) -> list[dict[str, Any]]:
    """What two ranks return when ours takes `seconds` a step, torch's 0.44 s."""
    blocks = [
        {"round": n, "side": side, "steps": 1, "seconds": seconds if side == OURS else 0.44}
        | {"cpu": 0.1}
        for n, side in turns(8)
    ]
    first = {"blocks": blocks, "losses": {OURS: [loss], PEER: []}, "gradients": {"a": 0.0}}
    last = {"blocks": blocks, "losses": {OURS: [loss], PEER: [2.0]}, "gradients": {"b": gradient}}
    return [first, last]


def test_a_tenth_faster_reads_as_a_tenth_faster():
    """The ratio is torch's time over ours, and the rows of a schedule carry its name."""
    (plan,) = pipeline.plans_of(schedule="zb-v")
    rows = pipeline.rows_of(plan, results())
    assert rows["zb-v: ours / ScheduleZBVZeroBubble"].median == pytest.approx(1.1)
    assert rows["zb-v: ours"].median == pytest.approx(plan.tokens_per_step / 0.4)
    assert rows["zb-v: processor time, ours / ScheduleZBVZeroBubble"].median == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"loss": 2.001}, "gpipe: step 0: our loss 2.001"),
        ({"loss": float("nan")}, "our loss nan"),
        ({"gradient": 0.01}, "gradients of b: 0.01 apart"),
    ],
)
def test_sides_that_do_not_train_the_same_are_not_compared(wrong, says):
    """A loss or a gradient that is off fails the bench."""
    (plan,) = pipeline.plans_of(schedule="gpipe")
    assert pipeline.check_alike(plan, results()) == {"loss": 0.0, "gradients": 0.0}
    with pytest.raises(pipeline.Disagreement, match=says):
        pipeline.check_alike(plan, results(**wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"pp": 1},
        {"dp": 2},
        {"tied": True},
        {"dtype": "bfloat16"},
        {"dropout": 0.1},
        {"schedule": "zb-h2"},
    ],
)
def test_what_has_no_fair_peer_is_refused(wrong):
    """One rank, replicas, shared weights, masters, random masks, and schedules torch has not."""
    with pytest.raises(PlanError, match=next(iter(wrong))):
        pipeline.plans_of(**({"dialect": "gpt"} | wrong))


@pytest.mark.live
def test_both_sides_train_the_same():
    """On real ranks every schedule has torch's losses and gradients, under torch's own order."""
    report = pipeline.measure(pipeline.plans_of(**TINY), QUICK, silent)
    apart = report.settings["largest_difference"]
    assert set(apart) == set(pipeline.PEERS)
    assert all(each["loss"] < 1e-6 and each["gradients"] < 1e-4 for each in apart.values())
    assert all(row.median > 0 for row in report.rows.values())


@pytest.mark.live
def test_a_wrong_gradient_is_noticed(monkeypatch):
    """A planted fault: gradients of the peer that are doubled are half of themselves apart."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(pipeline, "TARGET", "pipeline_bench_targets:doubled")
    with pytest.raises(pipeline.Disagreement, match=r"gradients of \S+: 0\.5 apart where"):
        pipeline.measure(pipeline.plans_of(**TINY, schedule="1f1b"), QUICK, silent)


@pytest.mark.live
def test_pipeline_prints_one_json_object():
    """`shardlab bench pipeline --json` says what ran, where, and each figure with its interval."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
    report = invoke("pipeline", "--schedule=1f1b", "--rounds=1", "--warmup=1", *flags, "--json")
    assert "1f1b: ours / Schedule1F1B" in report["rows"]
    assert report["settings"]["peers"] == {"1f1b": "Schedule1F1B"}
    assert any("rounds cannot bear" in warning for warning in report["warnings"])


# -- the bubble, predicted and replayed ----------------------------------------------------------


def measured(plan: Plan, uneven: int = 0) -> Trace:
    """A made-up run: F, I and W take 100 us, those of microbatch 3 `uneven` ns longer."""
    trace = simulated(program_of(plan), UnitCost())
    beats = {Op.F: 100_000, Op.B: 200_000, Op.I: 100_000, Op.W: 100_000}
    spans = tuple(
        replace(span, cpu_ns=beats.get(Op(span.op), 0) + uneven * (span.mb == 3))
        for span in trace.spans
    )
    return replace(trace, spans=spans)


def of(name: str, **flat: Any) -> Plan:
    return Plan.of(**{**pipeline.DEFAULTS, **flat}, schedule=name)


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zb-h1", "zb-v", "dualpipe-v"])
def test_a_forecast_of_even_tasks_is_the_replay(name):
    """Where each task takes what its kind takes, median and own time lay out the same step."""
    plan = of(name)
    program, trace = program_of(plan), measured(plan)
    foreseen = forecast(plan, program, trace, link=FREE)
    assert foreseen.kind is Kind.MODELLED
    again = replay(plan, program, trace, link=FREE)
    assert [s.t_done for s in foreseen.spans] == [s.t_done for s in again.spans]


def test_the_forecast_of_gpipe_is_the_formula():
    """(p-1)/(m+p-1) of the time is idle, whatever a beat takes."""
    plan = of("gpipe", pp=4, layers=4)
    found = bubble(forecast(plan, program_of(plan), measured(plan), link=FREE))
    assert found.bubble_fraction == pytest.approx(3 / 11, abs=1e-6)


def test_uneven_tasks_part_replay_and_forecast():
    """The forecast takes medians: a microbatch that takes ten times as long does not move it."""
    plan = of("1f1b", pp=4, layers=4)
    program = program_of(plan)
    even, uneven = measured(plan), measured(plan, uneven=1_000_000)
    assert forecast(plan, program, uneven, link=FREE).makespan == pytest.approx(
        forecast(plan, program, even, link=FREE).makespan
    )
    longer = replay(plan, program, uneven, link=FREE)
    assert longer.makespan > 2 * forecast(plan, program, even, link=FREE).makespan


def test_a_forecast_needs_a_whole_step():
    """A run without a kind of task says which."""
    plan = of("1f1b")
    trace = measured(plan)
    part = replace(trace, spans=tuple(s for s in trace.spans if s.op != Op.B))
    with pytest.raises(ValueError, match="no B stage0 mb0 on rank 0"):
        forecast(plan, program_of(plan), part, link=FREE)


def test_every_schedule_that_fits_is_run():
    """Those that do not fit are named with their rule; a schedule asked for must fit."""
    plans, refused = bubbles.plans_of(**TINY, pp=4)
    names = {plan.schedule for plan in plans}
    assert "1f1b" in names and "dualpipe-v" in refused and not names & set(refused)
    with pytest.raises(PlanError, match="microbatches"):
        bubbles.plans_of(**TINY, pp=4, schedule="dualpipe-v")
    with pytest.raises(PlanError, match="heads"):
        bubbles.plans_of(**(TINY | {"heads": 3}))


@pytest.mark.live
def test_bubbles_of_a_real_run_have_both_numbers():
    """Replayed a sample a step, predicted one a run, and their difference."""
    plans, refused = bubbles.plans_of(**TINY, schedule="zb-h1")
    report = bubbles.measure(plans, refused, bubbles.Runs(steps=2, warmup=1), silent)
    replayed, predicted, apart = (
        report.rows[f"zb-h1: {what}"] for what in ("replayed", "predicted", "apart")
    )
    assert (replayed.n, predicted.n, apart.n) == (2, 1, 2)
    assert apart.low == pytest.approx(replayed.low - predicted.median)
    assert 0 < predicted.median < 100


def test_steps_before_the_first_counted_one_count_in_nothing():
    """A warm-up of slow tasks changes neither bubble."""
    plan = of("gpipe")
    view = RunView(plan)
    one = measured(plan)
    slow = measured(plan, uneven=10_000_000)
    later = [replace(span, step=1) for span in one.spans]
    view._spans = [*slow.spans, *later]
    rows = bubbles.rows_of(plan, view, after=1)
    assert rows["gpipe: replayed"].n == 1
    assert rows["gpipe: apart"].median == pytest.approx(0.0, abs=1e-6)


# -- the simulator -------------------------------------------------------------------------------


def test_the_simulator_is_timed_in_a_process_of_its_own():
    """Three parts, their sum, and a peak of its own; a limit that is passed is said."""
    small = simulate.Size(2, 4, 2, seconds=1e-9, gib=4.0)
    report = simulate.measure(simulate.Repeats(repeats=1), silent, sizes=(small,))
    parts = [report.rows[f"{small}: {part}"].median for part in simulate.PARTS]
    assert report.rows[f"{small}: all three"].median == pytest.approx(sum(parts))
    assert 0 < report.rows[f"{small}: peak memory"].median < 4
    assert lanes_of(small) == report.settings["sizes"][0]["instructions"]
    (doubt,) = report.warnings
    assert "more than 1e-09 s" in doubt


def lanes_of(size: simulate.Size) -> int:
    """F and B of every microbatch and stage, and two ends of every message between stages."""
    stages = size.p * size.v
    return 2 * size.m * stages + 2 * 2 * size.m * (stages - 1)

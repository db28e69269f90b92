"""The benches run, say what they measured, and their interval is the right one. None is timed here:
how fast is a matter of the machine, that the arithmetic is right is not."""

from __future__ import annotations

import json
import re
from math import comb
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from parallel_core.bench import BENCHES, dp, player, recorder, start
from parallel_core.bench.interleave import OURS, PEER, Block, a_step, merged, take_turns, turns
from parallel_core.bench.measurement import CONFIDENCE, Measurement, median_interval, ratio_of
from parallel_core.cli import bench_command
from parallel_core.fields import PlanError

TINY = {"layers": 1, "hidden": 16, "heads": 2, "seq": 8, "global_batch": 4}
MEASUREMENT = {"unit", "median", "low", "high", "spread", "n"}
RATIO = "ours / DistributedDataParallel"


def silent(text: str) -> None:
    """A bench's progress, unheard."""


# -- the arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(6, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (30, 10)])
def test_the_interval_is_the_textbook_one(n, k):
    """The k of published tables (Conover, 3.2): it covers 95 %, and the next one would not."""
    assert median_interval(range(1, n + 1)) == (k, n + 1 - k)

    def covers(k: int) -> float:
        return 1 - 2 * sum(comb(n, i) for i in range(k)) / 2**n

    assert covers(k) >= CONFIDENCE > covers(k + 1)


def test_the_interval_covers_the_median_as_often_as_it_says():
    """2000 experiments of 15 skewed samples: the true median is inside in at least 95 % of them."""
    draws = np.random.default_rng(3).lognormal(mean=0.0, sigma=1.0, size=(2000, 15))
    inside = [low <= 1.0 <= high for low, high in map(median_interval, draws.tolist())]
    assert 0.95 <= np.mean(inside) <= 0.98


def test_few_samples_give_their_whole_range():
    """Below six samples no interval of the median reaches 95 %."""
    few = Measurement.of([5.0, 2.0, 9.0], "ms")
    assert (few.low, few.median, few.high, few.n) == (2.0, 5.0, 9.0, 3)
    with pytest.raises(ValueError, match="at least one sample"):
        Measurement.of([], "ms")


def test_a_ratio_is_ours_over_theirs_and_mirrors_when_they_change_places():
    """Half the time is twice the speed; the interval of 1/ratio is the mirrored interval."""
    ours, theirs = [1.0, 2.0, 3.0, 1.5, 2.5, 0.9, 1.1], [2.0, 4.4, 5.0, 3.3, 5.0, 1.8, 2.0]
    ratio, mirror = ratio_of(ours, theirs), ratio_of(theirs, ours)
    assert ratio.median == pytest.approx(2.0)
    assert (mirror.low, mirror.high) == pytest.approx((1 / ratio.high, 1 / ratio.low))


def test_an_even_drift_cancels_in_every_round():
    """A machine that slows down turn by turn is unfair to nobody."""
    blocks = [
        Block(number, side, 1, seconds=1.0 + 0.01 * place, cpu=0.0)
        for place, (number, side) in enumerate(turns(4))
    ]
    assert a_step(blocks, OURS) == pytest.approx(a_step(blocks, PEER))
    assert len(a_step(blocks, OURS)) == 4


def test_a_turn_is_over_when_its_last_rank_is():
    """Seconds are the slowest rank's, processor time is everybody's."""
    ranks = [[Block(0, OURS, 2, 1.0, 0.5)], [Block(0, OURS, 2, 3.0, 0.25)]]
    assert merged(ranks) == [Block(0, OURS, 2, 3.0, 0.75)]


def test_both_sides_take_as_many_steps():
    """Two rounds of turns of three steps are twelve steps a side, and everybody meets before."""
    done: list[str] = []
    sides = {OURS: lambda: done.append(OURS), PEER: lambda: done.append(PEER)}
    take_turns(sides, rounds=2, steps=3, meet=lambda: done.append("meet"))
    assert done.count(OURS) == done.count(PEER) == 12
    assert done[:4] == ["meet", OURS, OURS, OURS]


# -- ours beside the peer ------------------------------------------------------------------------


def results(loss: float = 2.0, seconds: float = 0.4) -> list[dict[str, Any]]:
    """What two ranks return when ours takes `seconds` a step and the peer 0.44 s."""
    blocks = [
        {"round": n, "side": side, "steps": 1, "seconds": seconds if side == OURS else 0.44}
        | {"cpu": 0.1}
        for n, side in turns(8)
    ]
    losses = {OURS: [loss] * 4, PEER: [1.0] * 4}
    norms: dict[str, list[float]] = {OURS: [], PEER: []}
    return [{"blocks": blocks, "losses": losses, "norms": norms, "threads": 1}] * 2


def test_a_tenth_faster_reads_as_a_tenth_faster():
    """The ratio is the peer's time over ours, and no doubt is cast on a good measurement."""
    report = dp.digest(dp.plan_of(), dp.Race(), results())
    assert report.rows[RATIO].median == pytest.approx(1.1)
    assert report.rows["ours"].median == pytest.approx(dp.plan_of().tokens_per_step / 0.4)
    assert report.warnings == ()


def test_doubts_are_said():
    """Steps that are too short, and a ratio below what we hold ourselves to, are named."""
    slow = dp.digest(dp.plan_of(), dp.Race(), results(seconds=0.48))
    assert "below the 0.97" in " ".join(slow.warnings)
    short = dp.digest(dp.plan_of(), dp.Race(), results(seconds=0.05))
    assert "a step takes 50 ms, less than 200" in " ".join(short.warnings)


@pytest.mark.parametrize("loss", [2.001, float("nan")])
def test_sides_that_do_not_train_the_same_are_not_compared(loss):
    """A loss that is a thousandth off in the first step fails the bench."""
    with pytest.raises(dp.Disagreement, match=r"step 0: our loss (2\.001|nan)"):
        dp.digest(dp.plan_of(), dp.Race(), results(loss=loss))


@pytest.mark.live
@pytest.mark.parametrize("given", [{}, {"microbatches": 2, "dp_method": "naive", "tied": True}])
def test_both_sides_train_the_same(given):
    """On real ranks, losses and gradient norms of both sides agree to rounding."""
    plan = dp.plan_of(**TINY, **given)
    report = dp.measure(plan, dp.Race(rounds=1, warmup=3), silent)
    assert 0 <= report.settings["largest_difference"] < 1e-5
    assert report.rows["ours"].n == 1


@pytest.mark.live
def test_dp_prints_one_json_object():
    """`shardlab bench dp --json` says what ran, where, and each figure with its interval."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
    report = invoke("dp", "--rounds=1", "--warmup=3", "--no-norm", *flags, "--json")
    assert set(report["rows"]) >= {RATIO, "ours", "DistributedDataParallel", "step, ours"}
    assert all(set(row) == MEASUREMENT for row in report["rows"].values())
    assert report["settings"]["gradient_norm"] == "neither"
    assert report["settings"]["peer"]["static_graph"] is True
    assert {"torch", "python", "shardlab"} <= set(report["versions"])
    assert {"processor", "cores", "memory_gib", "system"} == set(report["machine"])
    assert len(report["load_average"]) == len(report["load_average_after"]) == 3
    assert any("rounds cannot bear" in warning for warning in report["warnings"])


@pytest.mark.parametrize("wrong", [{"dp": 1}, {"dtype": "bfloat16"}, {"dropout": 0.1}])
def test_what_cannot_be_compared_is_refused(wrong):
    """One process, float32 masters against none, and random masks have no fair peer."""
    with pytest.raises(PlanError, match=next(iter(wrong))):
        dp.plan_of(**({"dialect": "gpt"} | wrong))


# -- the other benches ---------------------------------------------------------------------------


@pytest.mark.live
def test_start_latencies_are_measured_cold_and_warm():
    """A row for each of: what is awaited, ranks, cold or warm; all of them positive."""
    report = start.measure(start.Repeats(cold=1, warm=2), silent, ranks=(2,))
    assert set(report.rows) == {
        f"first {what}, 2 ranks, {how}"
        for what in ("all-reduce", "step")
        for how in ("cold", "warm")
    }
    assert all(row.low > 0 and row.unit == "ms" for row in report.rows.values())


@pytest.mark.live
def test_the_recorder_is_weighed():
    """The share adds up what a step holds: its instructions, readings, messages and notes."""
    plan = dp.plan_of(**TINY)
    chosen = recorder.Watching(rounds=2, real_rounds=1, warmup=1)
    report = recorder.measure(plan, chosen, silent)
    counts = report.settings["a_step_has"]
    assert counts == {"instructions": 3 + 3 + 1 + 1 + 2, "readings": 7, "messages": 2}
    assert {row.unit for row in report.rows.values()} == {"%", "us", "ms", "x"}
    assert report.rows["reading the memory once"].median > 0


def test_unrecorded_lanes_do_the_same_and_note_nothing():
    """What the recorder is held against computes the same values, without notes."""
    from parallel_core.bench.recorder_ranks import Unrecorded, _empty_kernels
    from parallel_core.cases import program_of
    from parallel_core.lanes import Lanes

    program = program_of(dp.plan_of(**TINY))
    instrs, holds = program.ranks[0], dict.fromkeys(program.holds[0], True)
    watched, blind = (cls(instrs, _empty_kernels(instrs)) for cls in (Lanes, Unrecorded))
    assert watched.run(0, holds) == blind.run(0, holds)
    assert len(watched.notes) == len(instrs) and blind.notes == []
    watched.close()
    blind.close()


@pytest.mark.browser
def test_the_player_is_timed_in_a_browser():
    """Frame times of every size, from the player's own bench."""
    if reason := player.why_not():
        pytest.skip(reason)
    report = player.measure(player.Scrubs(repeats=1, frames=5), silent, sizes=(640,))
    assert len(report.rows) == len(player.ROWS)
    assert report.rows["frame to frame, median, 640 spans"].median > 0


def test_without_a_browser_the_player_says_so(monkeypatch):
    """No Chromium is a sentence in the report, not an error."""
    monkeypatch.setattr(player, "CANDIDATES", ("no-such-browser",))
    report = invoke("player", "--json")
    assert "was not measured" in report["skipped"] and report["rows"] == {}


def test_all_gathers_every_bench(monkeypatch):
    """`shardlab bench all --json` is one object with a report by bench."""
    from parallel_core.bench.measurement import Report

    def instant(name: str, options: dict[str, Any]) -> bench_command.Bench:
        return lambda say: Report(name, name, {"row": Measurement.of([1.0], "s")})

    monkeypatch.setattr(bench_command, "_bench", instant)
    gathered = invoke("all", "--json")["benches"]
    assert list(gathered) == list(BENCHES)
    assert all(gathered[name]["bench"] == name for name in BENCHES)


@pytest.mark.parametrize("name", [*BENCHES, "all"])
def test_help_has_examples(name):
    """Every bench explains itself, with commands to copy."""
    done = CliRunner().invoke(bench_command.command, [name, "--help"])
    assert done.exit_code == 0 and f"shardlab bench {name}" in done.output


@pytest.mark.parametrize("name", ["cp", "dp", "ep", "pipeline", "tp", "zero"])
def test_help_names_what_the_bench_takes_and_its_own_defaults(name):
    """Not those of a run: a contest of ranks has two of them. What has one value is no option."""
    done = CliRunner().invoke(bench_command.command, [name, "--help"])
    said = " ".join(done.output.split())
    axis = {"pipeline": "pp", "zero": "dp"}.get(name, name)
    assert re.search(rf"--{axis} INT [^\[]*\[default: 2( and 4)?\]", said)
    for flag in ("--parameter-server", "--offload", "--z-loss", "--cap"):
        assert f"{flag} " not in said
    refused = CliRunner().invoke(bench_command.command, [name, "--parameter-server=sync"])
    assert refused.exit_code == 2 and "--parameter-server" in refused.output


@pytest.mark.parametrize(
    ("words", "flag"),
    [(["--flops-a-byte=0"], "--crossover"), (["--crossover", "--step-rounds=1"], "--step-rounds")],
)
def test_an_option_of_the_other_contest_is_refused(words, flag):
    done = CliRunner().invoke(bench_command.command, ["cp", *words])
    assert done.exit_code == 2 and flag in done.output


def invoke(*words: str) -> dict[str, Any]:
    """What `shardlab bench ...` printed on stdout, as JSON."""
    done = CliRunner().invoke(bench_command.command, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)

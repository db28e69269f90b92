"""The bench of ZeRO compares like with like, in speed and in bytes. Nothing is timed here: how fast
is a matter of the machine, that both sides did the same work is not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from click.testing import CliRunner

from parallel_core.bench import dp, zero
from parallel_core.bench.interleave import OURS, PEER, turns
from parallel_core.bench.peaks import highest, kept, watch
from parallel_core.cli import bench_command
from parallel_core.fields import PlanError
from parallel_core.ledger import predicted_memory

TINY = {"layers": 1, "hidden": 16, "heads": 2, "seq": 8, "global_batch": 4, "vocab": 32}
QUICK = zero.Race(rounds=1, memory_rounds=1, warmup=3)


def silent(text: str) -> None:
    """A bench's progress, unheard."""


def results(seconds: float = 0.4, peak: int = 80) -> list[dict[str, Any]]:
    """What two ranks return when ours takes `seconds` a step and the peer 0.44 s and 100 MiB."""
    blocks = [
        {"round": n, "side": side, "steps": 1, "seconds": seconds if side == OURS else 0.44}
        | {"cpu": 0.1}
        for n, side in turns(8)
    ]
    peaks = {OURS: [peak << 20] * 6, PEER: [100 << 20] * 6}
    lower = {OURS: [1 << 20] * 6, PEER: [1 << 20] * 6}
    return [{"blocks": blocks, "peaks": peaks}, {"blocks": blocks, "peaks": lower}]


# -- the arithmetic ------------------------------------------------------------------------------


def test_rows_are_ours_over_theirs():
    """A tenth faster with four fifths of the memory reads so; memory is the fullest rank's."""
    (plan,) = zero.plans_of(zero=3)
    rows = zero.rows_of(plan, zero.FSDP, results())
    assert rows["ZeRO-3 / fully_shard"].median == pytest.approx(1.1)
    assert rows["ZeRO-3 / fully_shard: peak bytes"].median == pytest.approx(0.8)
    assert rows["ZeRO-3 / fully_shard: peak, ours"].median == 80
    assert rows["ZeRO-3 / fully_shard: ours"].median == pytest.approx(plan.tokens_per_step / 0.4)
    assert list(zero._doubts(rows)) == []


def test_doubts_are_said():
    """Slower, fuller and too short are named, each with its contest."""
    (plan,) = zero.plans_of(zero=2)
    said = " ".join(zero._doubts(zero.rows_of(plan, zero.KEPT, results(0.5, peak=120))))
    assert "below the 0.97" in said and "ZeRO-2 / fully_shard, kept 0.880" in said
    assert "more memory than the peer: ZeRO-2 / fully_shard, kept 1.200" in said
    short = " ".join(zero._doubts(zero.rows_of(plan, zero.KEPT, results(0.05))))
    assert "a step takes 50 ms, less than 200" in short


def test_an_allocator_that_does_not_count_is_said():
    """Without mallinfo2 there is no row of bytes, and a sentence instead."""
    (plan,) = zero.plans_of(zero=1)
    blind = [{**r, "peaks": {OURS: [0], PEER: [0]}} for r in results()]
    rows = zero.rows_of(plan, zero.DDP, blind)
    assert not any("peak" in name for name in rows)
    assert any("no peak was measured" in doubt for doubt in zero._doubts(rows))


def test_the_fullest_rank_counts():
    assert zero.fullest([[1, 5], [3, 2]]) == [3, 5]


def test_every_stage_has_its_peers():
    """All stages without --zero, else the one; each has somebody to be held against."""
    assert [plan.zero for plan in zero.plans_of()] == [1, 2, 3]
    assert [plan.zero for plan in zero.plans_of(zero=0)] == [0]
    assert all(zero.PEERS[stage] for stage in range(4))


@pytest.mark.parametrize("wrong", [
    {"tied": True}, {"shard": 2, "dp": 4, "zero": 3}, {"clip": 1.0}, {"dp": 1},
    {"dtype": "bfloat16"},
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(wrong):
    """A tied table, groups of shards, clipping, one process, float32 masters."""
    with pytest.raises(PlanError, match=next(iter(wrong))):
        zero.plans_of(**wrong)


def test_asking_loads_no_torch():
    code = "import sys, parallel_core.bench.zero; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the watcher ---------------------------------------------------------------------------------


def test_the_highest_reading_of_a_call_is_found():
    """What rises and falls within the call is seen, from another thread."""
    level, threads = [1], []

    def read() -> int:
        threads.append(threading.get_ident())
        return level[0]

    def call() -> None:
        level[0] = 7
        time.sleep(0.05)
        level[0] = 2

    assert highest(call, read) == 7
    assert len(set(threads)) == 2


def test_a_peak_is_what_is_kept_and_what_a_step_adds():
    """Two sides of one process, each with its own bytes; the other's are not counted."""
    level = [100]

    def step_of(adds: int):
        def step() -> None:
            level[0] += adds
            time.sleep(0.1)
            level[0] -= adds

        return step

    with kept(lambda: level[0]) as ours:
        level[0] += 10
    with kept(lambda: level[0]) as theirs:
        level[0] += 30
    keeps = {OURS: ours[0], PEER: theirs[0]}
    peaks = watch({OURS: step_of(5), PEER: step_of(7)}, keeps, 2, read=lambda: level[0])
    assert peaks == {OURS: [15, 15], PEER: [37, 37]}


# -- on real ranks -------------------------------------------------------------------------------


@pytest.mark.live
def test_both_sides_train_the_same_and_hold_what_they_should():
    """Every contest agrees to rounding; our state is the ledger's, no peer's is smaller than a
    shard of everything."""
    plans = [*zero.plans_of(**TINY, zero=0), *zero.plans_of(**TINY)]
    report = zero.measure(plans, QUICK, silent)
    contests = report.settings["contests"]
    assert len(contests) == sum(len(zero.PEERS[plan.zero]) for plan in plans)
    for plan in plans:
        name = f"ZeRO-{plan.zero}" if plan.zero else "plain"
        for peer in zero.PEERS[plan.zero]:
            told = contests[f"{name} / {peer}"]
            assert 0 <= told["largest_difference"] < 1e-5
            book = {kind: max(sizes) for kind, sizes in predicted_memory(plan).items()}
            assert told["state_bytes"][OURS] == book
            assert sum(told["state_bytes"][PEER].values()) >= sum(book.values()) / plan.dp
            assert report.rows[f"{name} / {peer}"].n == 1


@pytest.mark.live
def test_zero_prints_one_json_object():
    """`shardlab bench zero --zero 3 --microbatches 2 --json`: rows, settings, circumstances."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
    words = ["zero", "--zero=3", "--microbatches=2", "--rounds=1", "--memory-rounds=1",
             "--warmup=3", "--no-norm", *flags, "--json"]  # fmt: skip
    done = CliRunner().invoke(bench_command.command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert "ZeRO-3 / fully_shard" in report["rows"]
    assert report["settings"]["gradient_norm"] == "neither"
    assert report["settings"]["stages"] == [3]
    assert any("rounds cannot bear" in warning for warning in report["warnings"])


def test_sides_that_do_not_train_the_same_are_not_compared():
    """The sentence names the peer."""
    losses = {OURS: [2.1], PEER: [1.0]}
    norms: dict[str, list[float]] = {OURS: [], PEER: []}
    apart = [{"losses": losses, "norms": norms}] * 2
    with pytest.raises(dp.Disagreement, match=r"our loss 2\.1, fully_shard's 2:"):
        dp.check_alike(apart, zero.FSDP)

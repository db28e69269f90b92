"""The bench of tensor parallelism compares like with like. Nothing is timed here: how fast is a
matter of the machine, that both sides did the same work is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from parallel_core.bench import tensor
from parallel_core.bench.dp import Disagreement
from parallel_core.bench.interleave import OURS, PEER, turns
from parallel_core.cli import bench_command
from parallel_core.fields import PlanError

TINY = {"layers": 2, "hidden": 16, "heads": 2, "seq": 8, "global_batch": 4, "vocab": 32}
EXACT = {**TINY, "dtype": "float64", "microbatches": 2}
QUICK = tensor.Race(rounds=1, memory_rounds=1, warmup=3)
PLAIN, CUT = "tp / parallelize_module", "tp + sp / parallelize_module"


def silent(text: str) -> None:
    """A bench's progress, unheard."""


def results(seconds: float = 0.4, peak: int = 80) -> list[dict[str, Any]]:
    """What two ranks return when ours takes `seconds` a step and the peer 0.44 s and 100 MiB."""
    blocks = [
        {"round": n, "side": side, "steps": 1, "seconds": seconds if side == OURS else 0.44}
        | {"cpu": 0.1 if side == OURS else 0.125}
        for n, side in turns(8)
    ]
    peaks = {OURS: [peak << 20] * 6, PEER: [100 << 20] * 6}
    lower = {OURS: [1 << 20] * 6, PEER: [1 << 20] * 6}
    return [{"blocks": blocks, "peaks": peaks}, {"blocks": blocks, "peaks": lower}]


# -- the arithmetic ------------------------------------------------------------------------------


def test_rows_are_ours_over_theirs():
    """A tenth faster at four fifths of memory and processor time reads so."""
    plain, cut = tensor.plans_of()
    rows = tensor.rows_of(cut, results())
    assert rows[CUT].median == pytest.approx(1.1)
    assert rows[f"{CUT}: peak bytes"].median == pytest.approx(0.8)
    assert rows[f"{CUT}: processor time"].median == pytest.approx(0.8)
    assert rows[f"{CUT}: ours"].median == pytest.approx(cut.tokens_per_step / 0.4)
    assert list(tensor._doubts(rows)) == []
    assert PLAIN in tensor.rows_of(plain, results())


def test_doubts_are_said():
    """Slower, fuller, too short and uncounted are named, each with its contest."""
    plain, cut = tensor.plans_of()
    said = " ".join(tensor._doubts(tensor.rows_of(cut, results(0.5, peak=120))))
    assert f"{CUT}: the lower end 0.880 is below" in said
    assert f"more memory than the peer: {CUT} 1.200" in said
    assert "takes 50 ms" in " ".join(tensor._doubts(tensor.rows_of(plain, results(0.05))))
    blind = [{**r, "peaks": {OURS: [0], PEER: [0]}} for r in results()]
    assert "no peak was measured" in " ".join(tensor._doubts(tensor.rows_of(plain, blind)))


def test_both_kinds_are_run_unless_one_is_asked_for():
    assert [plan.sp for plan in tensor.plans_of()] == [False, True]
    assert [plan.sp for plan in tensor.plans_of(sp=True)] == [True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tp": 1, "sp": False},
        {"dp": 2},
        {"dropout": 0.1, "dialect": "gpt"},
        {"clip": 1.0},
        {"dtype": "bfloat16"},
        {"kv_heads": 1},
        {"vocab": 255},
        {"recompute": "full"},
        {"offload": True},
    ],
)
def test_what_has_no_fair_peer_is_refused(wrong):
    """One rank, replicas, random masks, clipping, masters, half a head, padding, kept less."""
    with pytest.raises(PlanError, match=next(iter(wrong))):
        tensor.plans_of(**wrong)


def test_asking_loads_no_torch():
    code = "import sys, parallel_core.bench.tensor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- on real ranks -------------------------------------------------------------------------------


@pytest.mark.live
def test_both_sides_train_the_same():
    """In float64 every loss and norm of every step agrees to 1e-9, with sp and without."""
    report = tensor.measure(tensor.plans_of(**EXACT), QUICK, silent)
    contests = report.settings["contests"]
    assert set(contests) == {PLAIN, CUT}
    assert all(0 <= told["largest_difference"] < 1e-9 for told in contests.values())
    assert all(row.median > 0 for row in report.rows.values())
    assert report.settings["backend"] in ("gloo", "nccl")


@pytest.mark.live
def test_tp_prints_one_json_object():
    """`shardlab bench tp --sp --dialect gpt --json`: rows, settings, what to know."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in EXACT.items()]
    words = ["tp", "--sp", "--dialect=gpt", "--rounds=1", "--memory-rounds=1", "--warmup=3",
             "--no-norm", *flags, "--json"]  # fmt: skip
    done = CliRunner().invoke(bench_command.command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert CUT in report["rows"] and PLAIN not in report["rows"]
    assert report["settings"]["gradient_norm"] == "neither"
    assert report["settings"]["contests"][CUT]["largest_difference"] < 1e-9
    assert any("rounds cannot bear" in warning for warning in report["warnings"])


@pytest.mark.live
def test_a_peer_that_trains_otherwise_is_noticed(monkeypatch):
    """A planted fault: at half the learning rate the second loss is another."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(tensor, "TARGET", "tensor_peer_targets:halved")
    with pytest.raises(Disagreement, match="step 1: our loss"):
        tensor.measure(tensor.plans_of(**TINY, sp=False, lr=0.1), QUICK, silent)


@pytest.mark.live
@pytest.mark.parametrize("dialect", ["llama", "gpt"])
def test_both_sides_send_the_same_messages(dialect, on_ranks):
    """The same sums; with sp the same scatters, a gather more a region in ours, and one sum of
    the parts of all norms (gpt: and positions) where the peer sums each parameter's alone."""
    layers = TINY["layers"]
    norms = {"llama": 2 * layers + 1, "gpt": 2 * (2 * layers + 1) + 1}[dialect]
    plans = [{**TINY, "tp": 2, "dialect": dialect, "sp": sp} for sp in (False, True)]
    for plain, cut in on_ranks(2, "tensor_peer_targets:messages", plans=plans):
        assert plain[0] == plain[1] == {"all_reduce": 2 * (2 * layers + 1) + 3 + 1}
        mine, theirs = cut
        assert mine["reduce_scatter"] == theirs["reduce_scatter_tensor"] == 2 * (2 * layers + 1)
        assert theirs["all_gather_into_tensor"] == 2 * (2 * layers + 1)
        assert mine["all_gather"] == theirs["all_gather_into_tensor"] + 2 * layers + 1
        assert mine["all_reduce"] == 3 + 1 + 1
        assert theirs["all_reduce"] == 3 + norms + 1

"""Pass-Q against pass-KV behind a cached prompt: bytes exactly, times as the ranks measured them.

How fast is a matter of the machine; what was sent, what was computed and how a crossing is found
are not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.bench import context_crossover as bench
from parallel_core.bench import context_crossover_cases as compared
from parallel_core.bench.dp import Disagreement
from parallel_core.cli import bench_command
from parallel_core.context import METHODS
from parallel_core.context.crossover import Ring, q_sends_less_up_to
from parallel_core.context.layout import Layout
from parallel_core.context.traffic import LayerShape, sent
from parallel_core.fields import PlanError
from parallel_core.published import table

TINY = {"hidden": 16, "heads": 2, "seq": 32, "vocab": 32}
QUICK = compared.Sweep(rounds=1, flops_a_byte=0.0)
META = Ring(n=4, heads=128, kv_heads=8, flops=800e12, bytes_per_s=50e9)


def silent(text: str) -> None:
    """A bench's progress, unheard."""


# -- the rules -----------------------------------------------------------------------------------


@given(
    st.integers(2, 8),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 40),
    st.integers(0, 300),
    st.sampled_from([2, 4, 8]),
)
def test_q_sends_less_where_its_border_says(n, kv, new, cached, width):
    """All bytes that leave a rank, the way home included; from our own messages, to the byte."""
    layout = Layout(seq=2 * new * n, ranks=n, zigzag=True, cached=cached * n)
    ours = LayerShape(layout=layout, batch=1, heads=8, kv_heads=kv, head_dim=4, width=width)
    by_kv, by_q = (sent(METHODS[name].moves(ours, False), layout) for name in ("zigzag", "pass-q"))
    share = 2 * new / (2 * new + cached)
    assert (by_q <= by_kv) == (share <= q_sends_less_up_to(ours))


@given(st.sampled_from([1, 2, 8, 64, 128]), st.integers(1, 999), st.floats(0.01, 100))
def test_the_border_is_where_the_rule_changes_its_mind(kv, new, speed):
    """Both rules, at any speed of the wire: pass-Q below their border, pass-KV above."""
    ring = replace(META, kv_heads=kv, bytes_per_s=META.bytes_per_s * speed)
    new, tokens = 128 * new, 128_000
    for choose, border in (
        (ring.choose, ring.border(tokens)),
        (ring.choose_with_the_way_home, ring.border_with_the_way_home(tokens)),
    ):
        if abs(new / tokens - border) > 1e-9:
            below = new / tokens < border
            assert choose(new, tokens - new) == ("pass-q" if below else "pass-kv")


def test_the_published_times_cross_between_the_two_rules():
    """Between 5 and 10 % of new tokens; algorithm 1 says 3.1, its smaller message 12.5."""
    rows = table("cp_table4").rows
    at = bench.crossing(
        [row["miss_pct"] / 100 for row in rows],
        [row["passQ_ms"] / row["passKV_ms"] for row in rows],
    )
    assert META.border(128_000) < at < META.q_is_smaller_up_to
    assert at == pytest.approx(0.05, rel=0.1)


# -- the arithmetic ------------------------------------------------------------------------------


@given(st.floats(0.03, 0.97), st.floats(0.2, 3.0))
def test_a_crossing_is_found_where_it_was_put(at, slope):
    """A power law through 1 at a share is straight on both logarithmic axes."""
    shares = [2.0**-k for k in range(6, -1, -1)]
    ratios = [(share / at) ** slope for share in shares]
    assert bench.crossing(shares, ratios) == pytest.approx(at)


def test_one_disturbed_turn_does_not_move_the_crossing_far():
    """A point that stands above its successors is no crossing of its own."""
    shares = [2.0**-k for k in range(6, -1, -1)]
    ratios = [(share / 0.25) ** 0.7 for share in shares]
    ratios[1] = 1.3
    assert bench.crossing(shares, ratios) == pytest.approx(0.25, rel=0.02)


def test_a_crossing_outside_the_sweep_is_its_end():
    assert bench.crossing([0.1, 1.0], [1.5, 2.0]) == 0.1
    assert bench.crossing([0.1, 1.0], [0.5, 0.9]) == 1.0


def told(plan: Any, *, slow: str = "") -> list[dict[str, Any]]:
    """What two ranks would return: pass-Q takes new tokens' time, pass-KV that of a quarter of
    all tokens; a turn was disturbed, and one rank waits for the other."""
    blocks, counted = dict[str, list[Any]](), dict[str, Any]()
    for case in compared.cases(plan):
        seconds = {"pass-q": case.new / 1000, "pass-kv": plan.seq / 4000}
        blocks[case.name] = [
            {"round": n, "side": side, "steps": 1, "seconds": each * (1 + 5 * turn), "cpu": 0.0}
            for n in range(6)
            for side, each in seconds.items()
            for turn in range(2)
        ]
        counted[case.name] = {
            side: [[m.op.value, m.axis, m.bytes] for m in METHODS[name].moves(
                compared.shape_of(plan, case), False)]
            for side, name in compared.SIDES.items()
        }  # fmt: skip
    names = [case.name for case in compared.cases(plan)]
    one = {
        "asked": {}, "apart": 0.0, "counted": counted, "blocks": blocks,
        "tiles": dict.fromkeys(names, 1e-3),
        "rates": {"flops": 1e9, "bytes_per_s": 1e6},
    }  # fmt: skip
    fast = {
        name: [{**block, "seconds": block["seconds"] / 9} for block in each]
        for name, each in blocks.items()
    }
    return [one, {**one, "blocks": fast}]


def test_a_report_has_the_faster_turn_of_the_slowest_rank():
    """The times cross at a quarter, and nowhere else; the ends of the sweep are not mistaken."""
    plan = compared.plan_of(**TINY)
    found = bench.report(plan, compared.Sweep(), told(plan))
    assert found.rows["1 of 2 heads: times cross at"].median == pytest.approx(25)
    assert found.rows["1 of 2 heads, 12.5 % new"].median == pytest.approx(0.5)
    case = next(c for c in found.settings["cases"] if (c["kv_heads"], c["new"]) == (1, 8))
    assert case["ms"]["pass-q"]["median"] == pytest.approx(8)
    keys = 2 * 16 * 8 * 4  # k and v, half of 32 positions, one head of 8, float32
    assert case["hop_bytes"] == {"pass-kv": keys, "pass-q": 2 * 4 * 8 * 4}
    group = found.settings["cases"][-1]["group"]
    assert group["q_is_smaller"] == 100 and found.warnings == ()


def test_a_byte_or_a_result_that_differs_is_noticed():
    """Planted faults: one byte more, one message less, a result that is another."""
    plan = compared.plan_of(**TINY)
    for spoil in (
        lambda r: r["counted"]["1 8"]["pass-kv"][0].__setitem__(2, 1),
        lambda r: r["counted"]["1 8"]["pass-q"].pop(),
        lambda r: r.__setitem__("apart", 1.0),
        lambda r: r.__setitem__("apart", float("nan")),
    ):
        results = json.loads(json.dumps(told(plan)))
        spoil(results[1])
        with pytest.raises(Disagreement):
            bench.report(plan, compared.Sweep(), results)


@pytest.mark.parametrize(
    "wrong", [{"cp": 1}, {"dp": 2}, {"tp": 2}, {"zero": 1}, {"cp_method": "ring"}, {"seq": 30}]
)
def test_what_is_not_compared_is_refused(wrong):
    with pytest.raises(PlanError, match=next(iter(wrong))):
        compared.plan_of(**wrong)


def test_asking_loads_no_torch():
    code = "import sys, parallel_core.bench.context_crossover; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- on real ranks -------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.parametrize("cp", [2, 4])
def test_both_find_the_same_and_send_what_was_predicted(cp):
    """Every case on real ranks; a byte that differs would be a Disagreement."""
    plan = compared.plan_of(**TINY, cp=cp)
    found = bench.measure(plan, QUICK, silent)
    assert len(found.settings["cases"]) == len(compared.cases(plan)) == len(found.rows) - 2
    assert all(row.median > 0 for row in found.rows.values())
    assert min(found.settings["rates"].values()) > 0


@pytest.mark.live
def test_a_slow_wire_takes_the_time_of_its_bytes(on_ranks):
    """A hop and an all-to-all of known bytes at a known rate; beside a tile it is waited for no
    longer than it takes, and without a rate it is not waited for at all."""
    for told in on_ranks(2, "context_crossover_targets:wire", rate=1e6, bytes=40_000):
        assert told["hop"] >= 0.04 and told["all_to_all"] >= 0.02
        assert 0.04 <= told["hop beside 30 ms"] < told["hop"] + 0.03
        assert told["unslowed"] < 0.02


@pytest.mark.live
def test_the_crossover_prints_one_json_object():
    """`shardlab bench cp --crossover --json`."""
    flags = [f"--{key}={value}" for key, value in TINY.items()]
    words = ["cp", "--crossover", "--rounds=1", "--flops-a-byte=0", *flags, "--json"]
    done = CliRunner().invoke(bench_command.command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["bench"] == "cp" and "2 of 2 heads: times cross at" in report["rows"]
    assert any("rounds cannot bear" in warning for warning in report["warnings"])


@pytest.mark.live
def test_a_planted_fault_on_the_ranks_is_noticed(monkeypatch):
    """Pass-Q hands over its queries twice."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(compared, "TARGET", "context_crossover_targets:twice")
    with pytest.raises(Disagreement, match="pass-q"):
        bench.measure(compared.plan_of(**TINY), QUICK, silent)

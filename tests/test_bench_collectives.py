"""`shardlab bench collectives`: what is compared, how turns are taken, what is doubted."""

from __future__ import annotations

import json

import pytest
import torch
from test_cli_collectives import typed

from parallel_core.bench import collectives
from parallel_core.bench.collectives import OURS, SIDES, SIZES, Contest, measure, ranks_of
from parallel_core.bench.collectives_ranks import _must_agree, _turns
from parallel_core.bench.measurement import Measurement
from parallel_core.fields import PlanError


@pytest.mark.live
def test_every_side_is_measured_beside_gloo():
    """A ratio a side and size with its interval, and gloo's own time; settings tell the rest."""
    said = []
    report = measure(Contest(rounds=2, turn_ms=1), said.append, (2, 3), (1 << 10, 1 << 16))
    assert len(report.rows) == 2 * 2 * len(SIDES)
    for n in (2, 3):
        for size in ("1 KiB", "64 KiB"):
            rows = [report.rows[f"{n} ranks, {size}: {side} / gloo"] for side in OURS]
            assert all(row.unit == "x" and 0 < row.low <= row.median for row in rows)
            assert report.rows[f"{n} ranks, {size}: gloo"].unit == "ms"
    assert "2 ranks: 64 KiB" in said
    assert [row["ranks"] for row in report.settings["times"]] == [2, 2, 3, 3]
    assert any("2 rounds cannot bear a 95 % interval" in doubt for doubt in report.warnings)
    assert json.loads(json.dumps(report.as_json()))["bench"] == "collectives"


def test_sizes_go_from_1_kib_to_64_mib():
    assert min(SIZES) == 1 << 10 and max(SIZES) == 1 << 26 and list(SIZES) == sorted(SIZES)


@pytest.mark.live
def test_turns_are_palindromes_and_nobody_is_always_first(on_ranks):
    """Each round every side twice, at the same mean place; the next round begins with another."""
    for order in on_ranks(2, "test_bench_collectives:_order_of_turns", rounds=4):
        rounds = [order[8 * i : 8 * i + 8] for i in range(4)]
        assert all(turns == turns[::-1] and set(turns) == set(SIDES) for turns in rounds)
        assert {turns[0] for turns in rounds} == set(SIDES)


def _order_of_turns(rank, rounds):
    rank.init()
    return [
        block.side for block in _turns({s: int for s in SIDES}, rounds, dict.fromkeys(SIDES, 1))
    ]


def test_a_wrong_sum_is_not_raced():
    """Sides that do not get gloo's result are named: their speed says nothing."""
    x = torch.ones(256)
    right = dict.fromkeys(SIDES, lambda: 3 * x)
    _must_agree(right, x.clone(), x.clone(), x)
    wrong = {**right, "ring": lambda: 3 * x + 1}
    with pytest.raises(ValueError, match="ring and gloo sum up 1024 bytes to different results"):
        _must_agree(wrong, x.clone(), x.clone(), x)


def test_what_misses_its_goal_is_doubted():
    """Shared memory at any size that may not beat gloo, the ring where it may be 1.3 times as
    slow at large sizes; what keeps its goal is not mentioned."""

    def row(low):
        return Measurement("x", low * 1.2, low, low * 1.5, 0.1, 8)

    rows = {
        "2 ranks, 1 KiB: ring / gloo": row(0.1),
        "2 ranks, 64 MiB: ring / gloo": row(0.5),
        "4 ranks, 64 MiB: ring / gloo": row(0.9),
        "2 ranks, 1 KiB: shared memory / gloo": row(0.8),
        "4 ranks, 1 KiB: shared memory / gloo": row(2.0),
    }
    direct, ring = collectives._doubts(rows, Contest())
    assert direct.endswith(": 2 ranks, 1 KiB: shared memory / gloo")
    assert ring.endswith(": 2 ranks, 64 MiB: ring / gloo")


def test_ranks_are_read_and_refused():
    assert ranks_of("2,4") == (2, 4) and ranks_of("3") == (3,) and ranks_of("2,2") == (2,)
    for text in ("", "two", "2,,4", "1", "2,900", "-2"):
        with pytest.raises(PlanError, match="must be numbers from 2 to"):
            ranks_of(text)
    code, out, err = typed("bench", "collectives", "--ranks", "1,2")
    assert (code, out) == (2, "") and err.startswith("shardlab: ranks='1,2' must be numbers")
    assert typed("bench", "collectives", "--rounds", "0")[0] == 2

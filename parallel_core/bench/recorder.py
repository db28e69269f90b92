"""What it costs to watch a run: the recorder of lanes.py and the booking of comm.py.

The difference that the recorder makes to a whole step is far below a step's own noise. So the cost
of one instruction and of one message are measured where nothing else happens, and their sum over
a step is held against a step's time; the whole step with and without is measured all the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_core.bench import Say, dp
from parallel_core.bench.interleave import OURS, PEER, Block, a_step, merged
from parallel_core.bench.measurement import Measurement, Report, ratio_of
from parallel_core.fields import validate, whole
from parallel_core.launch import Pool
from parallel_core.plan import Plan

TARGET = "parallel_core.bench.recorder_ranks:watch"

CEILING = 2.0
"""Percent of a step that the recorder may cost."""


@dataclass(frozen=True, kw_only=True)
class Watching:
    """How long the pairs take turns."""

    rounds: int = whole(20, 1, 10_000, "rounds of the small pairs (instruction, message, emit)")
    real_rounds: int = whole(10, 1, 10_000, "rounds of whole steps, four steps each")
    warmup: int = whole(3, 1, 1000, "untimed steps a side")

    def __post_init__(self) -> None:
        validate(self)


def measure(plan: Plan, chosen: Watching, say: Say) -> Report:
    """The recorder's cost in `plan`'s step. Raises RunError if a rank fails."""
    args = {
        "plan": plan.flat(),
        "rounds": chosen.rounds,
        "real_rounds": chosen.real_rounds,
        "warmup": chosen.warmup,
    }
    say(f"{plan.layout}: an instruction and a message, with and without")
    turn = 0
    with Pool(preload=dp.PRELOAD) as pool, pool.start(TARGET, plan.world_size, args) as run:
        for event in run.events():
            if event["event"] == "turn" and event["rank"] == 0:
                turn += 1
                say(f"{plan.layout}: step {turn} of {4 * chosen.real_rounds}")
        return digest(plan, chosen, run.wait())


def digest(plan: Plan, chosen: Watching, results: Sequence[Mapping[str, Any]]) -> Report:
    """Rank 0's small pairs and every rank's steps as a report."""
    first, counts = results[0], results[0]["counts"]
    blocks = merged([[Block(**b) for b in result["step"]["blocks"]] for result in results])
    watched, blind = a_step(blocks, OURS), a_step(blocks, PEER)
    instruction, message, emit = (
        _differences(first[name]) for name in ("instruction", "message", "emit")
    )
    step, reading = statistics.median(watched), first["step"]["reading"]
    whole_step = [
        counts["instructions"] * i + counts["messages"] * m + e + statistics.median(reading)
        for i, m, e in zip(instruction, message, emit, strict=True)
    ]
    rows = {
        "recorder, share of a step": Measurement.of([100 * s / step for s in whole_step], "%"),
        "noting an instruction": Measurement.of([1e6 * s for s in instruction], "us"),
        "reading the memory once": Measurement.of(
            [1e6 * s / counts["readings"] for s in reading], "us"
        ),
        "counting, comparing a message": Measurement.of([1e6 * s for s in message], "us"),
        "a bare message, group of one": Measurement.of(
            [1e6 * s for s in first["message"][PEER]], "us"
        ),
        "handing over a step's notes": Measurement.of([1e6 * s for s in emit], "us"),
        "step": Measurement.of([1e3 * s for s in watched], "ms"),
        "step, watched / unwatched": ratio_of(blind, watched),
    }
    settings = {"plan": plan.flat(), "a_step_has": counts, "rounds": chosen.rounds}
    notes = (
        "the share is what a step's instructions, readings, messages and notes cost, each measured"
        " apart, over the median step",
        "the last row is the same asked of whole steps; their own noise is in its interval",
    )
    return Report("recorder", plan.layout, rows, settings, notes, _doubts(rows))


def _differences(pair: Mapping[str, Sequence[float]]) -> list[float]:
    return [with_ - without for with_, without in zip(pair[OURS], pair[PEER], strict=True)]


def _doubts(rows: Mapping[str, Measurement]) -> tuple[str, ...]:
    share = rows["recorder, share of a step"]
    if share.high < CEILING:
        return ()
    return (f"the recorder may cost {share.high:.1f} % of a step; it should stay under {CEILING}",)

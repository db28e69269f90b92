"""Who contends in `shardlab bench ep`, and what becomes of their turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parallel_core.bench.context_rows import slowest
from parallel_core.bench.interleave import Block, a_step
from parallel_core.bench.measurement import Measurement, ratio_of
from parallel_core.plan import Plan

ALL_TO_ALL, GATHER, GROUPED, LOOP = "all-to-all", "all-gather", "grouped", "plain loop"
SIDES = (ALL_TO_ALL, GATHER, GROUPED, LOOP)
"""All contenders, by the names that their rows have."""

SENT = (ALL_TO_ALL, GATHER)
"""Those that send anything."""

PAIRS = ((ALL_TO_ALL, GATHER), (GROUPED, LOOP), (ALL_TO_ALL, LOOP))
"""(ours, theirs) for which ratios are given."""

ONE_KERNEL, PRODUCTS, MASKS = "one kernel", "one product an expert", "a mask an expert"
GPU_SIDES = (ONE_KERNEL, PRODUCTS, MASKS)
"""The same on a GPU: all experts' products in one kernel, one after the other, and a plain loop."""


def name_of(plan: Plan) -> str:
    """A case in words.

    >>> name_of(Plan.of(experts=8, ep=2, dp=2, global_batch=4, seq=64, skew=1.5))
    '2 ranks, 256 tokens, top 2, skew 1.5'
    """
    lean = f"skew {plan.model.skew:g}" if plan.model.skew else "even"
    return f"{plan.ep} ranks, {plan.tokens_per_step:,} tokens, top {plan.model.top_k}, {lean}"


def rows_of(plan: Plan, told: Sequence[Mapping[str, Any]]) -> dict[str, Measurement]:
    """The ranks' turns in one case as rows."""
    blocks = slowest([each["blocks"] for each in told])
    wall = {side: a_step(blocks, side) for side in SIDES}
    own = {side: a_step(blocks, side, "cpu") for side in SIDES}
    case, rows = name_of(plan), {}
    for ours, theirs in PAIRS:
        rows[f"{case}: {ours} / {theirs}"] = ratio_of(wall[ours], wall[theirs])
        rows[f"{case}: {ours} / {theirs}: own device"] = ratio_of(own[ours], own[theirs])
    for side in SIDES:
        rows[f"{case}: {side}"] = Measurement.of([1e3 * s for s in wall[side]], "ms")
        own_ms = [1e3 * s for s in own[side]]
        rows[f"{case}: {side}, own device"] = Measurement.of(own_ms, "ms")
    return rows


def gpu_rows(told: Mapping[str, Any]) -> dict[str, Measurement]:
    """The turns on a GPU as rows, by its own clock; none without one."""
    rows = {}
    for case in told["cases"]:
        blocks = [Block(**block) for block in case["blocks"]]
        times = {side: a_step(blocks, side) for side in GPU_SIDES}
        for side in GPU_SIDES:
            name = f"GPU, {case['name']}: {side}"
            rows[name] = Measurement.of([1e3 * s for s in times[side]], "ms")
            if side != ONE_KERNEL:
                rows[f"GPU, {case['name']}: {ONE_KERNEL} / {side}"] = ratio_of(
                    times[ONE_KERNEL], times[side]
                )
    return rows

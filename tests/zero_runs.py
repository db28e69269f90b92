"""Sizes and layouts of the ZeRO runs that the live tests share."""

from __future__ import annotations

from typing import Any

from parallel_core.data.blocks import blocks
from parallel_core.plan import Plan
from parallel_core.report import RunView

SMALL = {"layers": 2, "hidden": 16, "heads": 2, "seq": 8, "vocab": 64, "global_batch": 36}
EXACT = {**SMALL, "dtype": "float64", "bucket_mb": 0.001}
STEPS = 3

GPT = {"dialect": "gpt", "dropout": 0.1}
TIED = {"tied": True, "dialect": "llama"}
ADAMW, SGD = {"optimizer": "adamw"}, {"optimizer": "sgd"}
CLIPPED = {"clip": 0.05}
THREE = {"microbatches": 3}

HSDP = [{"shard": 4}, {"shard": 2}, {"shard": 1}]
"""1x4, 2x2 and 4x1: replicas times ranks a group, of 4."""


class Followed:
    """The plans of one call on `n` ranks, each with its RunView, results and report."""

    def __init__(self, pool: Any, n: int, target: str, **args: Any) -> None:
        key = "plans" if "plans" in args else "runs"
        listed = args[key]
        self.plans = [p if isinstance(p, Plan) else p[0] for p in listed]
        flat = [p.flat() if isinstance(p, Plan) else [p[0].flat(), *p[1:]] for p in listed]
        self.views = [RunView(plan) for plan in self.plans]
        at = [-1] * n
        with pool.start(target, n, {**args, key: flat}) as run:
            for event in run.events():
                self._feed(event, at)
            by_rank = run.wait(timeout=240)
        self.results = [[results[i] for results in by_rank] for i in range(len(self.plans))]
        reports = zip(self.views, self.results, strict=True)
        self.reports = [view.finish(results) for view, results in reports]

    def _feed(self, event: dict[str, Any], at: list[int]) -> None:
        """Events of a rank go to the plan that it works at."""
        rank = event.get("rank", 0)
        if event["event"] == "plan":
            at[rank] += 1
        else:
            self.views[at[rank]].feed(event)


def whole_blocks(plan: Plan) -> dict[int, int]:
    """By unit the bytes of its padded block."""
    width = 8 if plan.dtype == "float64" else 4
    return {block.units[0]: block.padded * width for block in blocks(plan)}


def most_gradients(plan: Plan) -> int:
    """Own shards, two blocks, and where the sum of one lands; a tied table besides."""
    whole = whole_blocks(plan)
    tied = whole[0] if plan.model.tied else 0
    a, b, *_ = sorted(whole.values(), reverse=True)
    return sum(whole.values()) // plan.shards + a + b + a // plan.shards + tied


def most_weights(plan: Plan) -> int:
    """Own shards and prefetch + 1 blocks (and tables, of a tied head); all where they are kept."""
    whole = whole_blocks(plan)
    tied = whole[0] if plan.model.tied else 0
    own = sum(whole.values()) // plan.shards
    window = 2 * sorted(whole.values(), reverse=True)  # forward, then backward
    blocks_at_once = sum(sorted(2 * window, reverse=True)[: plan.prefetch + 1])
    everything = sum(whole.values())
    most = max(everything, blocks_at_once) if plan.keep_gathered else blocks_at_once
    return own + most + tied * min(plan.prefetch + 1, 2)

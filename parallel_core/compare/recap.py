"""The recap of every lecture on this: when a method synchronises, what it divides, what it sends,
what it asks of the batch; in the textbook's words, with what was counted beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parallel_core.compare.expected import axes
from parallel_core.compare.figures import Samples
from parallel_core.compare.layouts import Contender
from parallel_core.live import LiveRun
from parallel_core.plan import Plan

SYNC = {
    "dp": "gradients, once a step",
    "tp": "activations, twice a layer and direction",
    "cp": "keys and values, in every layer",
    "pp": "activations, once a stage and microbatch",
    "ep": "tokens, twice a layer of experts and direction",
}

DIVIDES = {
    "dp": "nothing but the batch",
    "tp": "weights, optimizer, most activations",
    "cp": "activations, along the sequence",
    "pp": "weights and optimizer, by layers",
    "ep": "the experts' weights and optimizer",
}

BANDWIDTH = {
    "dp": "grows with the weights, not with the batch",
    "tp": "grows with the tokens and the layers: the fastest wires",
    "cp": "grows with the tokens and the layers",
    "pp": "grows with the tokens, not with the layers: slow wires will do",
    "ep": "grows with the tokens and the experts of each",
}

BATCH = {
    "dp": "a row a rank at least: it grows with the ranks, or each has less to do",
    "tp": "any; one row is enough",
    "cp": "any; the sequence is divided",
    "pp": "many microbatches, or the bubble shows",
    "ep": "enough tokens that every expert gets some",
}

SHARDED = {
    1: "the optimizer",
    2: "optimizer and gradients",
    3: "optimizer, gradients and weights",
}
"""What is cut by ZeRO's stage."""

GATHERS = "weights before every use of a layer, gradients once"

SHARES = "gradients, then updated weights, once a step"


def rows(
    found: Sequence[Contender],
    runs: Mapping[str, Sequence[LiveRun]],
    figures: Mapping[str, Samples],
) -> list[dict[str, Any]]:
    """A row a layout: words, and what was counted in its first run."""
    return [_row(each, runs[each.name][0], figures) for each in found]


def _row(who: Contender, run: LiveRun, figures: Mapping[str, Samples]) -> dict[str, Any]:
    plan, mine = who.plan, axes(who.plan)
    weights = max(run.report["ledger"]["memory"]["predicted"]["params"])
    return {
        "layout": who.name,
        "synchronises": _synchronises(plan, mine),
        "messages": messages_a_step(run),
        "divides": _divides(plan, mine),
        "state_bytes": figures[who.name]["state_bytes"][0],
        "bandwidth": _said(BANDWIDTH, mine),
        "sent_bytes": figures[who.name]["sent_bytes"][0],
        "weights_here_bytes": weights,
        "batch": _said(BATCH, mine) if mine else "any",
        "rows": plan.rows_per_microbatch,
        "microbatches": plan.microbatches,
    }


def messages_a_step(run: LiveRun) -> float:
    """Messages that a rank sends or joins in a step, mean over ranks; scalars are not counted."""
    wire = run.report["ledger"]["wire"]["measured"]
    each = [
        sum(row["messages"])
        for ops in wire.values()
        for op, row in ops.items()
        if op != "recv"  # the other end of a send
    ]
    return float(sum(each)) / run.plan.world_size / max(len(run.report["steps"]), 1)


def _divides(plan: Plan, mine: Sequence[str]) -> str:
    words = [DIVIDES[axis] for axis in mine]
    if plan.zero and "dp" in mine:
        words[mine.index("dp")] = f"the batch and, by ZeRO-{plan.zero}, {SHARDED[plan.zero]}"
    return "; ".join(words) or "nothing"


def _synchronises(plan: Plan, mine: Sequence[str]) -> str:
    words = [SYNC[axis] for axis in mine]
    if plan.zero and "dp" in mine:
        words[mine.index("dp")] = GATHERS if plan.zero == 3 else SHARES
    return "; ".join(words) or "never"


def _said(table: Mapping[str, str], mine: Sequence[str]) -> str:
    return "; ".join(table[axis] for axis in mine) or "nothing"

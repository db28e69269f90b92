"""The comparison as one JSON object: what `shardlab compare --json` prints and the page draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from parallel_core.bench.circumstances import circumstances
from parallel_core.compare.expected import axes, findings
from parallel_core.compare.figures import FIGURES, measured, samples
from parallel_core.compare.layouts import Contender, Turns
from parallel_core.compare.rate import FORMULA, Rate, model_flops
from parallel_core.compare.recap import rows
from parallel_core.live import LiveRun, on_one_link


def table(
    found: Sequence[Contender], runs: Mapping[str, Sequence[LiveRun]], turns: Turns, rate: Rate
) -> dict[str, Any]:
    """Every figure of every layout with its spread, the expectations, the recap, the circumstances.

    `runs` are one a round for each; all are replayed over the one link fitted to all.
    """
    level = _on_one_link(runs)
    figures = {each.name: samples(level[each.name], rate) for each in found}
    first = found[0]
    report = runs[first.name][0].report
    return {
        "title": "layouts of one model, measured",
        "steps": turns.steps,
        "rounds": len(runs[first.name]),
        "model": {**asdict(first.plan.model), **_trained(first)},
        "figures": {name: asdict(figure) for name, figure in FIGURES.items()},
        "rows": [
            {
                "name": each.name,
                "layout": each.plan.layout,
                "axes": list(axes(each.plan)),
                "ranks": each.plan.world_size,
                "figures": measured(figures[each.name]),
            }
            for each in found
        ],
        "expectations": [finding.as_json for finding in findings(found, figures)],
        "recap": rows(found, runs, figures),
        "mfu": {
            "formula": FORMULA,
            "model_flops": model_flops(first.plan),
            "clock": "own devices",
            **rate.as_json,
        },
        "link": str(level[first.name][0].link),
        "backend": report["provenance"]["backend"],
        **circumstances(),
    }


def _on_one_link(runs: Mapping[str, Sequence[LiveRun]]) -> dict[str, list[LiveRun]]:
    every = on_one_link([run for each in runs.values() for run in each])
    level = iter(every)
    return {name: [next(level) for _ in each] for name, each in runs.items()}


def _trained(who: Contender) -> dict[str, Any]:
    plan = who.plan
    return {
        "seq": plan.seq,
        "global_batch": plan.global_batch,
        "dtype": plan.dtype,
        "optimizer": plan.optimizer,
        "seed": plan.seed,
    }

"""`shardlab bench cp`: our rings beside each other, torch's, and one process."""

from __future__ import annotations

from typing import Any

import click

from parallel_core.cli.bench_options import AS_JSON, Bench, count, run, taken
from parallel_core.cli.plan_options import given, plan_options


@click.command("cp")
@plan_options
@count("rounds", "rounds in which every side attends twice  [default: 12]")
@count("memory-rounds", "untimed rounds in which memory is watched  [default: 6]")
@count("step-rounds", "rounds of whole training steps, 0 for none  [default: 6]")
@count("warmup", "untimed layers, or steps, a side  [default: 2]")
@AS_JSON
def command(as_json: bool, **options: Any) -> None:
    """Attention of one layer: zigzag beside the contiguous ring, torch's rings and one process.

    All attend to the same sequence on the same ranks, forward and backward, and take turns in one
    run: speed by wall clock and by own-device clock, and peak bytes a rank. Then zigzag and ring
    train whole steps.

    \b
    Examples:
      shardlab bench cp
      shardlab bench cp --seq 8192 --rounds 20 --step-rounds 0
      shardlab bench cp --cp 4 --hidden 128 --json | jq .rows
    """
    run(bench(given(options)), as_json=as_json)


def bench(flat: dict[str, Any]) -> Bench:
    """The bench with these options; a wrong one raises PlanError before anything starts."""
    from parallel_core.bench import context

    race = context.Race(**taken(flat, context.Race))
    plan = context.plan_of(**flat)
    return lambda say: context.measure(plan, race, say)

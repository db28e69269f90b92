"""`shardlab bench pipeline` and `bubble`: our schedules beside torch's, and beside prediction."""

from __future__ import annotations

from typing import Any

import click

from parallel_core import own_block
from parallel_core.cli.bench_options import (
    AS_JSON,
    MODEL,
    STEP,
    Bench,
    count,
    plan_fields,
    run,
    taken,
)
from parallel_core.cli.plan_options import given
from parallel_core.cli.plan_sections import Sectioned


def _own(schedules: str) -> dict[str, object]:
    from parallel_core.bench import pipeline

    return {**pipeline.DEFAULTS, "schedule": schedules}


@click.command("pipeline")
@plan_fields(
    *("pp", "schedule", "virtual_stages", "stage_layers", *MODEL, *STEP),
    own=lambda: _own("all of which torch has a peer"),
)
@count("rounds", "rounds of four turns, a schedule  [default: 16]")
@count("turn-steps", "steps a turn  [default: 1]")
@count("warmup", "untimed steps a side  [default: 3]")
@AS_JSON
def command(as_json: bool, **options: Any) -> None:
    """Tokens/s of our pipelines beside torch.distributed.pipelining's, schedule by schedule.

    Both train the same stages on the same ranks, batches and threads, and take turns in one run.
    Without --schedule: gpipe, 1f1b, interleaved, zb-v and dualpipe-v, one after another.

    \b
    Examples:
      shardlab bench pipeline
      shardlab bench pipeline --schedule zb-v --rounds 40
      shardlab bench pipeline --pp 4 --layers 8 --json | jq .rows
    """
    run(bench(given(options)), as_json=as_json)


@click.command("bubble", cls=Sectioned, rest="The measurement")
@plan_fields(own=lambda: _own("all that allow the rest"))
@count("steps", "steps that are replayed, a schedule  [default: 8]")
@count("warmup", "steps before them  [default: 2]")
@AS_JSON
def bubble(as_json: bool, **options: Any) -> None:
    """The bubble of a real run on the own-device clock, beside its prediction.

    Predicted from the run's median F, B, I and W of each rank and stage; they should be within 2
    points. Without --schedule: every schedule that allows the ranks and microbatches.

    \b
    Examples:
      shardlab bench bubble
      shardlab bench bubble --pp 4 --layers 8 --schedule zb-h1 --json
    """
    run(bench_of_bubbles(given(options)), as_json=as_json)


def bench(flat: dict[str, Any]) -> Bench:
    """The bench with these options; a wrong one raises PlanError before anything starts."""
    from parallel_core.bench import pipeline

    race = pipeline.Race(**taken(flat, pipeline.Race))
    plans = pipeline.plans_of(**flat)
    return lambda say: pipeline.measure(plans, race, say)


def bench_of_bubbles(flat: dict[str, Any]) -> Bench:
    """The same of the bubble."""
    from parallel_core.bench import bubble

    own_block.admit(flat)
    runs = bubble.Runs(**taken(flat, bubble.Runs))
    fit, refused = bubble.plans_of(**flat)
    return lambda say: bubble.measure(fit, refused, runs, say)

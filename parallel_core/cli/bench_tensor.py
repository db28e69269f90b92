"""`shardlab bench tp`: our tensor parallelism beside torch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

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


def _own() -> Mapping[str, object]:
    from parallel_core.bench import tensor

    return tensor.DEFAULTS


@click.command("tp")
@plan_fields("tp", "sp", "overlap_tp", *MODEL, "tied", *STEP, own=_own)
@count("rounds", "rounds of four turns, with sp and without  [default: 16]")
@count("memory-rounds", "untimed rounds in which memory is watched  [default: 6]")
@count("turn-steps", "steps a turn  [default: 1]")
@count("warmup", "untimed steps a side  [default: 4]")
@click.option("--norm/--no-norm", default=None, help="both measure the gradient norm, or neither")
@AS_JSON
def command(as_json: bool, **options: Any) -> None:
    """Tokens/s and peak bytes of our tensor parallelism beside DTensor's parallelize_module.

    Both train the same model on the same ranks, batches and threads, and take turns in one run.
    Without --sp or --no-sp: first without sequence parallelism, then with it.

    \b
    Examples:
      shardlab bench tp
      shardlab bench tp --sp --dialect gpt --rounds 40
      shardlab bench tp --tp 4 --hidden 256 --json | jq .rows
    """
    run(bench(given(options)), as_json=as_json)


def bench(flat: dict[str, Any]) -> Bench:
    """The bench with these options; a wrong one raises PlanError before anything starts."""
    from parallel_core.bench import tensor

    race = tensor.Race(**taken(flat, tensor.Race))
    plans = tensor.plans_of(**flat)
    return lambda say: tensor.measure(plans, race, say)

"""`shardlab bench cp`: our rings, torch's and one process; with --crossover pass-KV and pass-Q."""

from __future__ import annotations

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


def _own() -> dict[str, object]:
    from parallel_core.bench import context
    from parallel_core.bench import context_crossover_cases as compared

    one, other = context.DEFAULTS, compared.DEFAULTS
    apart = {
        name: f"{one[name]}, of a crossover {value}"
        for name, value in other.items()
        if value != one[name]
    }
    every = "as many as heads, of a crossover all, a half, a quarter..."
    return {**one, **apart, "kv_heads": every}


@click.command("cp")
@click.option("--crossover", is_flag=True, help="pass-Q beside pass-KV behind a cached prompt")
@plan_fields("cp", "overlap_cp", *MODEL, "tied", *STEP, own=_own)
@count("rounds", "rounds in which every side attends twice  [default: 12, of a crossover 6]")
@count("memory-rounds", "untimed rounds in which memory is watched  [default: 6]")
@count("step-rounds", "rounds of whole training steps, 0 for none  [default: 6]")
@count("warmup", "untimed layers, or steps, a side  [default: 2]")
@count("flops-a-byte", "crossover: FLOPs while a byte is sent, 0 for the own wire  [default: 512]")
@AS_JSON
def command(crossover: bool, as_json: bool, **options: Any) -> None:
    """Attention of one layer: zigzag beside the contiguous ring, torch's rings and one process.

    All attend to the same sequence on the same ranks, forward and backward, and take turns in one
    run: speed by wall clock and by own-device clock, and peak bytes a rank. Then zigzag and ring
    train whole steps.

    With --crossover: a prefill of which a part is cached (--seq is all tokens), by pass-KV and by
    pass-Q, for several numbers of key/value heads. Where their times cross is printed beside the
    published rule; every message is counted to the byte.

    \b
    Examples:
      shardlab bench cp
      shardlab bench cp --seq 8192 --rounds 20 --step-rounds 0
      shardlab bench cp --crossover
      shardlab bench cp --crossover --kv-heads 1 --flops-a-byte 128 --json | jq .settings.cases
    """
    flat = given(options)
    run(bench_of_crossover(flat) if crossover else bench(flat), as_json=as_json)


def bench(flat: dict[str, Any]) -> Bench:
    """The bench with these options; a wrong one raises PlanError before anything starts."""
    from parallel_core.bench import context

    if "flops_a_byte" in flat:
        raise click.UsageError("--flops-a-byte slows the wire of a crossover: add --crossover")
    race = context.Race(**taken(flat, context.Race))
    plan = context.plan_of(**flat)
    return lambda say: context.measure(plan, race, say)


def bench_of_crossover(flat: dict[str, Any]) -> Bench:
    """The same of pass-KV beside pass-Q."""
    from parallel_core.bench import context_crossover
    from parallel_core.bench import context_crossover_cases as compared

    for name in ("memory_rounds", "step_rounds", "warmup"):
        if name in flat:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} says nothing of a crossover: leave one of the two out")
    sweep = compared.Sweep(**taken(flat, compared.Sweep))
    plan = compared.plan_of(**flat)
    return lambda say: context_crossover.measure(plan, sweep, say)

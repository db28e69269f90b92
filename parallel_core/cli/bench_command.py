"""`shardlab bench`: how fast the lab is, and what watching a run costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from parallel_core.bench import BENCHES, Say
from parallel_core.bench.circumstances import circumstances
from parallel_core.bench.measurement import Measurement, Report
from parallel_core.cli.plan_options import given, plan_options

AS_JSON = click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")


@click.group("bench")
def command() -> None:
    """Measure the lab: beside a peer, or beside itself without what is measured.

    \b
    Examples:
      shardlab bench dp                    our data parallelism beside torch's DDP
      shardlab bench recorder --json       what watching a run costs
      shardlab bench all --json > bench.json
    """


@command.command("dp")
@plan_options
@click.option("--rounds", metavar="INT", help="rounds of four turns  [default: 16]")
@click.option("--turn-steps", metavar="INT", help="steps a turn  [default: 2]")
@click.option("--warmup", metavar="INT", help="untimed steps a side  [default: 4]")
@click.option("--peer-bucket-mb", metavar="FLOAT", help="DDP's bucket_cap_mb  [default: 25]")
@click.option("--norm/--no-norm", default=None, help="both measure the gradient norm, or neither")
@AS_JSON
def dp(as_json: bool, **options: Any) -> None:
    """Tokens/s of our bucketed data parallelism beside DistributedDataParallel.

    Both train the same model on the same ranks, batches and threads, and take turns in one run.
    Plan options not given have the bench's own defaults, for steps of more than 200 ms.

    \b
    Examples:
      shardlab bench dp
      shardlab bench dp --rounds 40 --no-norm
      shardlab bench dp --dp 4 --hidden 128 --json | jq .rows
    """
    from parallel_core.bench import dp as bench

    flat = given(options)
    own = {f.name for f in fields(bench.Race)}
    chosen = bench.Race(**{k: flat.pop(k) for k in own & set(flat)})
    plan = bench.plan_of(**flat)
    _run(lambda say: bench.measure(plan, chosen, say), as_json)


def _run(bench: Callable[[Say], Report], as_json: bool) -> None:
    with progress() as say:
        report = measured(bench, say)
    _print(report, as_json)


def measured(bench: Callable[[Say], Report], say: Say) -> dict[str, Any]:
    """A bench's report with the circumstances it ran under, and the load when it was over."""
    before = circumstances()
    report = bench(say).as_json()
    return {**report, **before, "load_average_after": circumstances()["load_average"]}

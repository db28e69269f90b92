"""`shardlab bench`: how fast the lab is, and what watching a run costs."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import click

from parallel_core import own_block
from parallel_core.cli import bench_all, bench_context, bench_experts, bench_pipeline, bench_tensor
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


def _own(name: str) -> dict[str, object]:
    """The sizes that a bench takes by itself."""
    return dict(importlib.import_module(f"parallel_core.bench.{name}").DEFAULTS)


class Benches(click.Group):
    """A group whose list says what each bench measures, to the end of the sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name and first paragraph; click would cut it at the line's end."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first(c)) for name, c in sorted(self.commands.items())])


def _first(command: click.Command) -> str:
    return " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())


@click.group("bench", cls=Benches)
def command() -> None:
    """Measure the lab: beside a peer, or beside itself without what is measured.

    \b
    Examples:
      shardlab bench dp                    our data parallelism beside torch's DDP
      shardlab bench recorder --json       what watching a run costs
      shardlab bench all --json > bench.json
    """


command.add_command(bench_tensor.command)
command.add_command(bench_context.command)
command.add_command(bench_experts.command)
command.add_command(bench_pipeline.command)
command.add_command(bench_pipeline.bubble)


@command.command("dp")
@plan_fields("dp", "dp_method", "bucket_mb", *MODEL, "tied", *STEP, own=lambda: _own("dp"))
@count("rounds", "rounds of four turns  [default: 24]")
@count("turn-steps", "steps a turn  [default: 1]")
@count("warmup", "untimed steps a side  [default: 4]")
@count("peer-bucket-mb", "DistributedDataParallel's bucket_cap_mb  [default: 25]")
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
    _run("dp", options, as_json)


@command.command("start")
@count("cold", "repeats with a new pool  [default: 5]")
@count("warm", "repeats with a warm pool  [default: 15]")
@AS_JSON
def start(as_json: bool, **options: Any) -> None:
    """Latency from a request to the first all-reduce and to the end of the first step.

    At 2 and 4 ranks; cold (a new pool, torch imported) and warm (the pool has run before).

    \b
    Examples:
      shardlab bench start
      shardlab bench start --cold 3 --warm 30 --json
    """
    _run("start", options, as_json)


@command.command("recorder", cls=Sectioned, rest="The measurement")
@plan_fields(own=lambda: _own("dp"))
@count("rounds", "rounds of the small pairs  [default: 20]")
@count("real-rounds", "rounds of whole steps, four steps each  [default: 10]")
@count("warmup", "untimed steps a side  [default: 3]")
@AS_JSON
def recorder(as_json: bool, **options: Any) -> None:
    """What the recorder costs an instruction, a message, and a step; it should be under 2 %.

    \b
    Examples:
      shardlab bench recorder
      shardlab bench recorder --dp 2 --microbatches 4 --json
    """
    _run("recorder", options, as_json)


@command.command("player")
@count("repeats", "scrubs, each on a page opened anew  [default: 7]")
@count("frames", "frames a scrub  [default: 120]")
@AS_JSON
def player(as_json: bool, **options: Any) -> None:
    """Frame time of the player with 10,000 and 100,000 spans, in a headless Chromium.

    \b
    Examples:
      shardlab bench player
      shardlab bench player --repeats 3 --json
    """
    _run("player", options, as_json)


@command.command("collectives")
@click.option("--ranks", metavar="N,N", help="numbers of ranks  [default: 2,4]")
@count("rounds", "rounds of eight turns, two a side  [default: 8]")
@count("turn-ms", "a turn repeats its call for about so long, ms  [default: 10]")
@AS_JSON
def collectives(as_json: bool, **options: Any) -> None:
    """Our all-reduces beside gloo's own, 1 KiB to 64 MiB, in the same processes by turns.

    Ring and halving-doubling in messages, and the direct one through shared memory.

    \b
    Examples:
      shardlab bench collectives
      shardlab bench collectives --ranks 2,4 --rounds 20 --json
    """
    _run("collectives", options, as_json)


@command.command("zero")
@plan_fields(
    *("dp", "zero", "bucket_mb", "prefetch", "keep_gathered", *MODEL, *STEP),
    own=lambda: _own("zero") | {"zero": "1, 2 and 3, one after another"},
)
@count("rounds", "rounds of four turns, a peer  [default: 12]")
@count("memory-rounds", "untimed rounds in which memory is watched  [default: 6]")
@count("turn-steps", "steps a turn  [default: 1]")
@count("warmup", "untimed steps a side  [default: 4]")
@count("peer-bucket-mb", "DistributedDataParallel's bucket_cap_mb  [default: 25]")
@click.option("--norm/--no-norm", default=None, help="both measure the gradient norm, or neither")
@AS_JSON
def zero(as_json: bool, **options: Any) -> None:
    """Tokens/s and peak bytes of ZeRO beside torch's DDP, ZeroRedundancyOptimizer and FSDP2.

    Both train the same units on the same ranks, batches and threads, and take turns in one run.
    Without --zero: stages 1, 2 and 3, each beside the peers that do the same.

    \b
    Examples:
      shardlab bench zero --zero 3 --dp 4 --rounds 40
      shardlab bench zero --json | jq .rows
    """
    _run("zero", options, as_json)


@command.command("simulate")
@count("repeats", "times each size is simulated  [default: 3]")
@AS_JSON
def simulate(as_json: bool, **options: Any) -> None:
    """Time and peak memory of the simulator: p=16 m=128 v=4, and p=64 m=1024 v=4.

    \b
    Examples:
      shardlab bench simulate
      shardlab bench simulate --repeats 1 --json
    """
    _run("simulate", options, as_json)


def _bench(name: str, options: dict[str, Any]) -> Bench:
    """The bench with these options; a wrong one raises PlanError before anything starts."""
    flat = given(options)
    own_block.admit(flat)
    match name:
        case "dp":
            from parallel_core.bench import dp

            race = dp.Race(**taken(flat, dp.Race))
            plan = dp.plan_of(**flat)
            return lambda say: dp.measure(plan, race, say)
        case "zero":
            from parallel_core.bench import zero

            matches = zero.Race(**taken(flat, zero.Race))
            stages = zero.plans_of(**flat)
            return lambda say: zero.measure(stages, matches, say)
        case "start":
            from parallel_core.bench import start

            repeats = start.Repeats(**flat)
            return lambda say: start.measure(repeats, say)
        case "recorder":
            from parallel_core.bench import dp, recorder

            watching = recorder.Watching(**taken(flat, recorder.Watching))
            plan = dp.plan_of(**flat)
            return lambda say: recorder.measure(plan, watching, say)
        case "player":
            from parallel_core.bench import player

            scrubs = player.Scrubs(**flat)
            return lambda say: player.measure(scrubs, say)
        case "collectives":
            from parallel_core.bench import collectives

            ranks = collectives.ranks_of(flat.pop("ranks", "2,4"))
            contest = collectives.Contest(**flat)
            return lambda say: collectives.measure(contest, say, ranks)
    return _bench_of_pipelines(name, flat)


def _bench_of_pipelines(name: str, flat: dict[str, Any]) -> Bench:
    match name:
        case "tp":
            return bench_tensor.bench(flat)
        case "cp":
            return bench_context.bench(flat)
        case "ep":
            return bench_experts.bench(flat)
        case "pipeline":
            return bench_pipeline.bench(flat)
        case "bubble":
            return bench_pipeline.bench_of_bubbles(flat)
        case "simulate":
            from parallel_core.bench import simulate

            repeats = simulate.Repeats(**flat)
            return lambda say: simulate.measure(repeats, say)
    raise AssertionError(name)


def _run(name: str, options: dict[str, Any], as_json: bool) -> None:
    run(_bench(name, options), as_json=as_json)


command.add_command(bench_all.everything(lambda name, options: _bench(name, options)))

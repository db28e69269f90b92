"""`shardlab bench ep`: a layer of experts by all-to-all, all-gather, grouped, and in a loop."""

from __future__ import annotations

from typing import Any

import click

from parallel_core.cli.bench_options import AS_JSON, Bench, count, plan_fields, run, taken
from parallel_core.cli.plan_options import given

ROUTING = ("top_k", "router", "score", "capacity", "expert_groups", "group_limit", "skew")
SIZES = ("dialect", "hidden", "heads", "ffn", "global_batch", "seq", "seed")


def _own() -> dict[str, object]:
    from parallel_core.bench import experts

    swept = {name: " and ".join(map(str, each)) for name, each in experts.SWEEP.items()}
    return {**experts.DEFAULTS, **swept}


@click.command("ep")
@plan_fields("ep", "experts", *ROUTING, *SIZES, own=_own)
@count("rounds", "rounds a case, every side twice  [default: 8]")
@count("warmup", "untimed layers a side and case  [default: 2]")
@AS_JSON
def command(as_json: bool, **options: Any) -> None:
    """A layer of experts: all-to-all beside all-gather dispatch, grouped beside a plain loop.

    All have the same tokens, router and weights, forward and backward, and take turns in one run:
    speed by wall clock and by own-device clock, and the bytes that leave each rank. On 2 and 4
    ranks, for several --seq (times --global-batch: the tokens), --top-k and --skew; a field that
    is given is not swept. With a GPU, one kernel for all experts' products besides.

    \b
    Examples:
      shardlab bench ep
      shardlab bench ep --ep 4 --top-k 1 --skew 0 --rounds 20
      shardlab bench ep --seq 1024 --experts 64 --json | jq .settings.cases
    """
    run(bench(given(options)), as_json=as_json)


def bench(flat: dict[str, Any]) -> Bench:
    """The bench with these options; a wrong one raises PlanError before anything starts."""
    from parallel_core.bench import experts

    race = experts.Race(**taken(flat, experts.Race))
    plans = experts.plans_of(**flat)
    return lambda say: experts.measure(plans, race, say)

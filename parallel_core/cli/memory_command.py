"""`shardlab memory`: what a rank holds, of a model by ZeRO stage, or of a whole plan.

Nothing runs: these are the formulas of walls/sharding.py, and memory_forecast.py's of a plan.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from parallel_core import own_block
from parallel_core.cli.plan_options import Command, field_options, given
from parallel_core.cli.plan_sections import Sectioned
from parallel_core.cli.strict_json import strict_json
from parallel_core.fields import PlanError
from parallel_core.plan import Plan, flat_fields
from parallel_core.walls.request import MemoryRequest

REQUEST = {spec.name: spec for spec in fields(MemoryRequest)}
"""What is asked of a number of parameters. A field of the plan's as well stands here once."""


def all_options(command: Command) -> Command:
    """The request's fields, then those of the plan that are not among them."""
    return field_options(command, REQUEST | dict(flat_fields()) | REQUEST)


@click.command("memory", cls=Sectioned, rest="What is asked")
@all_options
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
def command(as_json: bool, **options: Any) -> None:
    """Bytes that a rank holds, predicted without running anything, and whether a device has them.

    A number of parameters (or a model by name): weights, gradients and optimizer by ZeRO stage, in
    bfloat16 with AdamW and a float32 master, 2 + 2 + K bytes a parameter; and the largest model
    that fits. Activations and buffers are not in it, and are listed.

    With any other field of a plan, those of `shardlab run`: that plan, activations and all. What
    stays and the most at any moment, rank by rank; what one layer keeps for its backward, row by
    row, beside the classic sbh(34 + 5as/h), every difference named. A model by name brings its
    shape, its context as --seq, and bfloat16. A --block of yours is the exception:
    it is loaded, and tried out once.

    \b
    Examples:
      shardlab memory --zero 3 --dp 64 --params 7.5e9
      shardlab memory --dp 64 --params 7.5e9 --device h100
      shardlab memory --model "Llama 3 70B" --dp 512 --device b200
      shardlab memory --dp 8 --moments bfloat16 --device 80e9 --json | jq .stages
      shardlab memory --model GPT-3 --vocab 51200 --tp 8 --sp --global-batch 1 --device h100
      shardlab memory --tp 8 --sp --recompute selective --hidden 12288 --heads 96 --layers 96
      shardlab memory --model "Llama 3 8B" --pp 4 --microbatches 8 --global-batch 8
      shardlab memory --tp 4 --attention unfused --json | jq .units.layer0.rows
    """
    typed = given(options)
    if typed.keys() <= REQUEST.keys():
        found, show = MemoryRequest(**typed).answer(), _show
    else:
        found, show = _of_a_plan(typed)
    if as_json:
        click.echo(strict_json(found))
    else:
        show(found)


def _of_a_plan(typed: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The forecast of a plan beside a device, and how to show it."""
    from parallel_core.cli.forecast_tables import show
    from parallel_core.cli.memory_forecast import forecast

    if "params" in typed:
        rule = "says nothing of layers; name a model, or give layers, hidden and heads"
        raise PlanError("params", typed["params"], rule, "none")
    asked = MemoryRequest(**{k: typed.pop(k) for k in ("model", "device") if k in typed})
    own_block.admit(typed)
    plan = Plan.of(**{**asked.plan_fields, **typed})
    return forecast(plan, asked.device_memory) | {"device": asked.about_device}, show


def _show(found: dict[str, Any]) -> None:
    out = Console()
    device = found["device"]
    name = device["name"] or "device"
    columns = ("stage", "weights", "gradients", "optimizer", "a rank holds", "largest model")
    title = f"{found['params'] / 1e9:,.4g} B parameters, dp={found['dp']}, K={found['k']}"
    table = Table(*columns, title=f"{title}; {name} of {_gb(device['bytes'])}")
    for row in found["stages"]:
        held = f"{_gb(row['total_bytes'])}, {'fits' if row['fits'] else 'does not fit'}"
        sizes = [_gb(row[f"{kind}_bytes"]) for kind in ("params", "grads", "optimizer")]
        largest = f"{row['largest_params'] / 1e9:,.4g} B"
        table.add_row(f"ZeRO-{row['zero']}" if row["zero"] else "none", *sizes, held, largest)
    out.print(table)
    for row in found["stages"]:
        out.print(_in_words(row), style="dim")
    out.print("not counted:", style="dim")
    for text in found["not_counted"]:
        out.print(f"  {text}", style="dim")


def _in_words(row: dict[str, Any]) -> str:
    """The largest real shape of the family under one stage."""
    stage = f"ZeRO-{row['zero']}" if row["zero"] else "without ZeRO"
    shape = row["largest_shape"]
    if shape is None:
        return f"{stage}: not even the smallest of the family fits"
    more = ", the last of the family" if shape["last_of_family"] else ""
    return (
        f"{stage}: the largest shape searched has {shape['layers']} layers of width"
        f" {shape['hidden']}: {shape['params'] / 1e9:,.4g} B parameters,"
        f" {_gb(shape['bytes'])} a rank{more}"
    )


def _gb(size: float) -> str:
    """Decimal gigabytes, as device makers and the ZeRO paper count."""
    return f"{size / 1e9:,.3g} GB" if size < 1e12 else f"{size / 1e9:,.0f} GB"

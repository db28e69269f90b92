"""`shardlab memory`: what a rank holds of a model under each ZeRO stage, and what would still fit.

Nothing runs: these are the formulas of walls/sharding.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from parallel_core.cli.strict_json import strict_json
from parallel_core.walls.request import MemoryRequest

Command = TypeVar("Command", bound=Callable[..., Any])


def request_options(command: Command) -> Command:
    """One option a field of the request, its help and default as declared there."""
    for spec in reversed(fields(MemoryRequest)):
        default = f"  [default: {spec.default}]" if spec.default is not None else ""
        metavar = "|".join(spec.metadata.get("choices", ())) or spec.metadata["kind"].__name__
        command = click.option(
            f"--{spec.name}",
            default=None,
            metavar=metavar.upper() if "choices" not in spec.metadata else metavar,
            help=spec.metadata["help"] + default,
        )(command)
    return command


@click.command("memory")
@request_options
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
def command(as_json: bool, **options: Any) -> None:
    """Bytes of weights, gradients and optimizer state a rank, by ZeRO stage; what fits a device.

    Training in bfloat16 with AdamW and a float32 master: 2 + 2 + K bytes a parameter, cut over the
    ranks as far as the stage goes. Activations and buffers are not in it, and are listed.

    \b
    Examples:
      shardlab memory --zero 3 --dp 64 --params 7.5e9
      shardlab memory --dp 64 --params 7.5e9 --device h100
      shardlab memory --model "Llama 3 70B" --dp 512 --device b200
      shardlab memory --dp 8 --moments bfloat16 --device 80e9 --json | jq .stages
    """
    typed = {name: value for name, value in options.items() if value is not None}
    found = MemoryRequest(**typed).answer()
    if as_json:
        click.echo(strict_json(found))
    else:
        _show(found)


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

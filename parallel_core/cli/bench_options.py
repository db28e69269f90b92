"""What every `shardlab bench` command is made of: its options, its run, its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import click

from parallel_core.bench import Say
from parallel_core.bench.measurement import Report
from parallel_core.cli.bench_report import measured, progress, show
from parallel_core.cli.plan_options import field_options
from parallel_core.plan import flat_fields

AS_JSON = click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")

Bench = Callable[[Say], Report]
Command = TypeVar("Command", bound=Callable[..., Any])


Own = Callable[[], Mapping[str, object]]
"""What a bench takes where an option is not given; asked for with the help, since it loads much."""

MODEL = ("dialect", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab")
STEP = ("microbatches", "global_batch", "seq", "dtype", "optimizer", "moments", "lr", "seed")
"""Fields of the plan that most contests leave open."""


def plan_fields(*names: str, own: Own) -> Callable[[Command], Command]:
    """Options for these fields of the plan, or for all: the others have one value in the bench."""
    every = flat_fields()
    chosen = {name: every[name] for name in names or every}

    def usual(name: str) -> str:
        value = own().get(name, chosen[name].default)
        return "" if value is None else str(value)

    return lambda command: field_options(command, chosen, usual)


def count(name: str, meaning: str) -> Callable[[Command], Command]:
    """An option whose value its bench's own fields check."""
    return click.option(f"--{name}", metavar="NUMBER", help=meaning)


def taken(flat: dict[str, Any], cls: type) -> dict[str, Any]:
    """The options that are fields of `cls`, taken out of `flat`; the others are the plan's."""
    return {f.name: flat.pop(f.name) for f in fields(cls) if f.name in flat}


def run(bench: Bench, *, as_json: bool) -> None:
    """Measure, and print the report."""
    with progress() as say:
        report = measured(bench, say)
    if as_json:
        click.echo(json.dumps(report))
    else:
        show(report)

"""What every `shardlab bench` command is made of: its options, its run, its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from parallel_core.bench import Say
from parallel_core.bench.measurement import Report
from parallel_core.cli.bench_report import measured, progress, show

AS_JSON = click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")

Bench = Callable[[Say], Report]
Command = TypeVar("Command", bound=Callable[..., Any])


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

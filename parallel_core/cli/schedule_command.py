"""`shardlab schedule`: what a pipeline's order costs, one of the table's or the reader's own."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from parallel_core.cli import schedule_tables
from parallel_core.cli.plan_options import given
from parallel_core.cli.schedule_request import (
    ScheduleRequest,
    report_of,
    slow_ranks,
    stages_a_rank,
)
from parallel_core.cli.strict_json import strict_json
from parallel_core.fields import PlanError, shown
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.reading import Form, write

STEPS = "5"  # of a run, where none are given
SHORT = {"pp": "-p", "microbatches": "-m", "virtual_stages": "-v"}
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def request_options(command: Any) -> Any:
    """One option a field of ScheduleRequest, but for the name; the fields do the parsing."""
    for spec in reversed(fields(ScheduleRequest)):
        if spec.name == "schedule":
            continue
        flag = "--" + spec.name.replace("_", "-")
        flags = [SHORT[spec.name], flag] if spec.name in SHORT else [flag]
        default = "" if spec.default is None else f"  [default: {spec.default}]"
        kind = spec.metadata["kind"].__name__.upper()
        text = spec.metadata["help"] + default
        command = click.option(*flags, spec.name, metavar=kind, help=text)(command)
    return command


@click.command("schedule")
@click.argument("name", required=False)
@request_options
@click.option("--slow", multiple=True, metavar="RANK:FACTOR", help="a rank that takes longer")
@click.option("--file", "file", type=FILE, help="your own order: text, torch's CSV, or JSON")
@click.option("--list", "listing", is_flag=True, help="show every schedule")
@click.option("--json", "form", flag_value="report", help="one JSON object on stdout, nothing else")
@click.option("--text", "form", flag_value=Form.TEXT.value, help="the order alone, a line a rank")
@click.option("--csv", "form", flag_value=Form.CSV.value, help="the order alone, torch's CSV")
@click.option("--run", "live", is_flag=True, help="then train in this order, on real processes")
@click.option("--steps", metavar="INT", help="with --run: training steps  [default: 5]")
def command(name: str | None, **options: Any) -> int:
    """Simulate a pipeline schedule: its picture, its bubble, what each rank holds.

    NAME is 1f1b, gpipe, interleaved, zb-h1, ...: --list shows them all. Times are in beats of one
    microbatch on one rank; a rank with v stages takes 1/v of them for each.

    \b
    Examples:
      shardlab schedule 1f1b -p 4 -m 8
      shardlab schedule interleaved -p 4 -m 8 -v 2 --tcomm 0.1
      shardlab schedule 1f1b -p 4 -m 8 --slow 1:1.5 --json
      shardlab schedule zb-h1 -p 4 -m 8 --text > mine.txt
      shardlab schedule --file mine.txt --run
      shardlab schedule --list
    """
    form, file, live, steps = (options.pop(key) for key in ("form", "file", "live", "steps"))
    if options.pop("listing"):
        schedule_tables.show_list(form == "report")
        return 0
    _must_agree(name, file, steps, live=live, alone=form in tuple(Form))
    slow = slow_ranks(options.pop("slow"))
    request = ScheduleRequest(**given({"schedule": name, **options}))
    with Console(stderr=True).status(f"{name or file}: simulating"):
        order, v = _order(request, file, slow)
        if form in tuple(Form):
            click.echo(write(order, Form(form)), nl=False)
            return 0
        report, trace = report_of(order, v, request.times(order.p, slow), request.cap)
    if form is None:
        schedule_tables.show(report, trace)
    if live:
        from parallel_core.cli.schedule_live import run_live, show_live

        view, report["run"] = run_live(order, name, steps or STEPS)
        if form is None:
            show_live(view, report["run"])
    if form is not None:
        click.echo(strict_json(report))
    return 0


def _must_agree(
    name: str | None, file: Path | None, steps: str | None, *, live: bool, alone: bool
) -> None:
    """Refuse options that contradict each other."""
    if name is None and file is None:
        rule = "must be given; shardlab schedule --list shows every schedule"
        raise PlanError("schedule", "nothing", rule, "1f1b")
    if name is not None and file is not None:
        rule = "stands beside --file: give one of the two"
        raise PlanError("schedule", name, rule, "none")
    if live and alone:
        raise PlanError("run", "true", "stands beside --text or --csv, which only print", "false")
    if steps is not None and not live:
        raise PlanError("steps", shown(steps), "is of a run: add --run, or leave it out", "none")


def _order(
    request: ScheduleRequest, file: Path | None, slow: dict[int, float]
) -> tuple[Order, int]:
    """The order that was asked for, and its stages a rank."""
    if file is not None:
        order = request.of_file(file)
        return order, stages_a_rank(order)
    job = request.job(slow)
    return SCHEDULES[request.schedule].of(job), job.v

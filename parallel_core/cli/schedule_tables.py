"""What a terminal shows of a schedule: its picture, its bubble under three names, its ranks."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from parallel_core.cli.schedule_picture import picture
from parallel_core.cli.strict_json import strict_json
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.schedule import Schedule
from parallel_core.trace import Trace

MANY = 16  # ranks up to which each has a row


def show_list(as_json: bool) -> None:
    """Every schedule of the table: its name, what it is, stages on a rank, its paper."""
    if as_json:
        rows = {name: _line(schedule) for name, schedule in SCHEDULES.items()}
        click.echo(strict_json(rows))
        return
    table = Table("schedule", "what it is", "stages a rank", "source")
    for name, s in SCHEDULES.items():
        table.add_row(name, s.title, ", ".join(map(str, s.virtual)) or "2 or more", s.source)
    Console().print(table)


def _line(s: Schedule) -> dict[str, Any]:
    """A line of the table; no `virtual_stages` means any from 2 on."""
    return {
        "title": s.title,
        "source": s.source,
        "virtual_stages": list(s.virtual),
        "weight_copies": s.copies,
        "asynchronous": s.asynchronous,
    }


def show(report: dict[str, Any], trace: Trace) -> None:
    """A report and its trace, on stdout."""
    out = Console(highlight=False)
    sizes = f"p={report['p']} m={report['m']} v={report['v']}"
    out.print(f"{report['name'] or 'your order'}, {sizes}", style="bold")
    out.print(picture(trace, out.width))
    out.print(f"makespan {report['makespan']:g}")
    out.print(_bubbles(report))
    out.print(_ranks(report))
    out.print(trace.provenance.badge, style="dim")


def _bubbles(report: dict[str, Any]) -> Table:
    table = Table("bubble", "", "is idle time over")
    for key, means in (
        ("bubble_ratio", "the ideal time, that of the work alone"),
        ("bubble_fraction", "the total, work and idle"),
        ("bubble_rate", "the longest rank's own span, first task to last (zero-bubble papers)"),
    ):
        table.add_row(key, f"{100 * report[key]:.2f} %", means)
    return table


def _ranks(report: dict[str, Any]) -> Table:
    table = Table("rank", "idle", "peak in flight, microbatches")
    pairs = list(zip(report["idle"], report["peak_in_flight"], strict=True))
    if len(pairs) <= MANY:
        for rank, pair in enumerate(pairs):
            table.add_row(str(rank), *(f"{value:g}" for value in pair))
    else:
        for name, pick in (("least", min), ("most", max)):
            ends = (pick(column) for column in zip(*pairs, strict=True))
            table.add_row(f"{name} of a rank", *(f"{value:g}" for value in ends))
    return table

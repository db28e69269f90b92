"""How a bench is followed and shown: a line while it runs, a table or an object at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from parallel_core.bench import Say
from parallel_core.bench.circumstances import circumstances
from parallel_core.bench.measurement import Report


@contextmanager
def progress() -> Iterator[Say]:
    """One line on stderr that says how far it is."""
    with Console(stderr=True).status("starting") as line:
        yield lambda text: line.update(text)


def measured(bench: Callable[[Say], Report], say: Say) -> dict[str, Any]:
    """A bench's report with the circumstances, and the load average when it was over."""
    before = circumstances()
    report = bench(say).as_json()
    return {**report, **before, "load_average_after": circumstances()["load_average"]}


def show(report: dict[str, Any]) -> None:
    """The report as a table on stdout."""
    out = Console()
    if report["skipped"]:
        out.print(report["skipped"])
        return
    table = Table("", "median", "95 % interval", "n", title=report["title"])
    for name, row in report["rows"].items():
        middle, low, high = (_number(row[key]) for key in ("median", "low", "high"))
        table.add_row(name, f"{middle} {row['unit']}", f"{low} to {high}", str(row["n"]))
    out.print(table)
    for note in report["notes"]:
        out.print(note, style="dim")
    machine, load, after = (report[k] for k in ("machine", "load_average", "load_average_after"))
    out.print(
        f"{machine['processor']}, {machine['cores']} cores, torch {report['versions']['torch']},"
        f" {report['date']}; load average {load[0]:.1f} before, {after[0]:.1f} after",
        style="dim",
    )
    for warning in report["warnings"]:
        Console(stderr=True).print(f"warning: {warning}", style="yellow")


def _number(value: float) -> str:
    """Four significant digits, thousands marked."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

"""`shardlab museum`: the famous silent bugs, listed, or one of them planted in a real run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from parallel_core.cli.plan_options import given
from parallel_core.cli.strict_json import strict_json
from parallel_core.fields import PlanError, shown
from parallel_core.museum.exhibit import PROBE
from parallel_core.museum.exhibits import EXHIBITS, ROOMS
from parallel_core.museum.report import MuseumView, follow
from parallel_core.museum.request import PLANTED, PRELOAD, Visit
from parallel_core.museum.words import copies, divergence, witness_rows, wrong_tensors

MOST_TENSORS = 6
Found = Mapping[str, Any]


def visit_options(command: Any) -> Any:
    """One option a field of Visit; parsing is left to the fields."""
    for spec in reversed(fields(Visit)):
        meta = spec.metadata
        flag = f"--{spec.name}"
        if meta["kind"] is bool:
            option = click.option(flag, spec.name, is_flag=True, default=None, help=meta["help"])
        else:
            words = "NAME" if spec.name == "bug" else "|".join(meta.get("choices", ()))
            text = meta["help"] + f"  [default: {spec.default}]" * (spec.name != "bug")
            option = click.option(flag, spec.name, metavar=words or "INTEGER", help=text)
        command = option(command)
    return command


@click.command("museum")
@visit_options
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
def command(as_json: bool, **options: Any) -> int:
    """List the famous silent bugs; with --bug plant one in a real run, and see who notices.

    Each was met in public. A visit trains right, with the bug, and right from another seed, on the
    same layout: a curve tells of a bug only if it moves it further than the other seed does. The
    probe compares gradients with one process. No other command can switch a bug on.

    Exit code 1 if the probe does not tell the two apart (with --asleep: if it does).

    \b
    Examples:
      shardlab museum
      shardlab museum --bug experts-times-ep
      shardlab museum --bug microbatches-undivided --optimizer sgd
      shardlab museum --bug norms-unsummed --steps 5 --json | jq .optimizers.adamw.noticed_by
    """
    asked = given(options)
    if "bug" not in asked:
        for name, value in asked.items():
            raise PlanError(name, shown(str(value)), "is of a visit: name a --bug", "none")
        _list(as_json)
        return 0
    visit = Visit(**asked).checked()
    report = _live(visit)
    if as_json:
        click.echo(strict_json(report))
    else:
        _show(report, visit)
    probes = [found["witnesses"][PROBE] for found in report["optimizers"].values()]
    as_told = (p["right"] <= p["bound"] and p["notices"] != visit.asleep for p in probes)
    return 0 if all(as_told) else 1


def _live(visit: Visit) -> dict[str, Any]:
    from parallel_core.launch import Pool

    out = Console(stderr=True)
    with out.status(f"{visit.bug}: starting") as line, Pool(preload=PRELOAD) as pool:

        def told(view: MuseumView) -> None:
            line.update(f"{visit.bug}: step {view.done} of {view.steps}")

        return follow(visit, pool, told)


def _list(as_json: bool) -> None:
    if as_json:
        listed = [
            {
                "bug": each.name,
                "title": each.title,
                "room": room,
                "wrong": each.wrong,
                "cure": each.cure,
                "fields": dict(each.fields),
                "sources": [source.url for source in each.sources],
            }
            for room, exhibits in ROOMS.items()
            for each in exhibits
        ]
        click.echo(strict_json(listed))
        return
    out = Console()
    for room, exhibits in ROOMS.items():
        table = Table(title=room, title_justify="left")
        table.add_column("bug", no_wrap=True)
        for name in ("what is wrong", "layout", "met in"):
            table.add_column(name)
        for each in exhibits:
            met = ", ".join(source.name for source in each.sources)
            table.add_row(each.name, each.title, each.plan().layout, met)
        out.print(table)
    first = next(iter(EXHIBITS))
    out.print(f"Plant one: shardlab museum --bug {first}", highlight=False)


def _show(report: Found, visit: Visit) -> None:
    out, exhibit = Console(highlight=False), visit.exhibit
    out.print(f"{exhibit.title} ({report['layout']})", style="bold")
    out.print(exhibit.wrong, markup=False)
    for optimizer, found in report["optimizers"].items():
        out.print(_witnesses(found, f"{optimizer}, {visit.steps} steps"))
        out.print(f"noticed by: {', '.join(found['noticed_by']) or 'nobody'}")
    first = report["optimizers"][visit.optimizers[0]]
    if wrong_tensors(first):
        out.print(_tensors(first))
    out.print(f"{divergence(first)} {copies(first)}".rstrip(), markup=False)
    out.print(f"asleep: the same code is right with {exhibit.sleeps} (--asleep)", markup=False)
    out.print(f"silent: {exhibit.silent}", markup=False)
    out.print(f"cure:   {exhibit.cure}", markup=False)
    for source in exhibit.sources:
        out.print(f"met in: {source.name}, {source.said}\n        {source.url}", markup=False)
    out.print(report["provenance"]["badge"], style="dim", markup=False)


def _witnesses(found: Found, title: str) -> Table:
    rows = witness_rows(found)
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*row.values())
    return table


def _tensors(found: Found) -> Table:
    every, wrong = len(found["tensors"][PLANTED]), wrong_tensors(found)
    title = f"gradients of step 0: {len(wrong)} of {every} tensors wrong"
    table = Table("tensor", "relative error", "times the right one", title=title)
    for row in wrong[:MOST_TENSORS]:
        table.add_row(row["name"], f"{row['error']:.2g}", f"{row['factor']:.3f}")
    return table

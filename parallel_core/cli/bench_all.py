"""`shardlab bench all`: every bench in one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from parallel_core.bench import BENCHES, Say
from parallel_core.bench.all import failed, gather
from parallel_core.cli.bench_options import AS_JSON, Bench
from parallel_core.cli.bench_report import measured, progress, show
from parallel_core.cli.strict_json import strict_json
from parallel_core.views.bench_page import page

Make = Callable[[str, dict[str, Any]], Bench]
FILE = click.Path(dir_okay=False)


def everything(make: Make) -> click.Command:
    """The command; `make` is a bench by name and options."""

    @click.command("all")
    @click.option("--quick", is_flag=True, help="tiny models, few rounds: does everything work?")
    @click.option("--only", metavar="NAME,NAME", help="these benches  [default: all]")
    @click.option("--html", type=FILE, help="write the page, one self-contained file")
    @click.option("--save", type=FILE, help="write the JSON, anew after every bench")
    @AS_JSON
    def command(
        *, quick: bool, only: str | None, html: str | None, save: str | None, as_json: bool
    ) -> None:
        """Every bench in turn, at its defaults: one report with machine, versions and spread.

        One that fails is told, and the others go on; the exit code is then 1.

        \b
        Examples:
          shardlab bench all --json > bench.json
          shardlab bench all --html bench.html --save bench.json
          shardlab bench all --quick --only dp,pipeline
        """

        def reported(name: str, options: Mapping[str, Any], say: Say) -> dict[str, Any]:
            return measured(make(name, dict(options)), say)

        def kept(report: dict[str, Any]) -> None:
            for file, text in ((save, strict_json(report)), (html, page(report))):
                if file:
                    Path(file).write_text(text, encoding="utf-8")

        for file in filter(None, (html, save)):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        with progress() as say:
            report = gather(chosen(only), reported, say, quick=quick, done=kept)
        kept(report)
        _tell(report, as_json=as_json)
        if failed(report):
            raise click.exceptions.Exit(1)

    return command


def chosen(only: str | None) -> list[str]:
    """The benches that are asked for, in their order; UsageError for a name that is none."""
    if only is None:
        return list(BENCHES)
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in BENCHES:
            raise click.UsageError(f"--only {name}: no such bench; there are {', '.join(BENCHES)}")
    return [name for name in BENCHES if name in names]


def _tell(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(strict_json(report))
        return
    for name, each in report["benches"].items():
        if "failed" in each:
            click.echo(f"{name} failed: {each['failed']}")
        else:
            show(each)

"""`shardlab parity`: every layout against one process, tensor by tensor, and where it departs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from parallel_core import own_block
from parallel_core.cli.parity_tables import show, show_list
from parallel_core.cli.strict_json import strict_json
from parallel_core.fields import PlanError
from parallel_core.launch import Pool
from parallel_core.machine import check_bears
from parallel_core.parity.first import TOLERANCE
from parallel_core.parity.matrix import Cell, cells, parse, provable, sample
from parallel_core.parity.sweep import PRELOAD, Outcome, State, summary, sweep

WORLD = click.IntRange(2, 64)
"""Ranks of one layout; this machine may bear fewer."""

CHOOSE = ("only", "count")
"""Options that choose among the matrix's layouts."""


@click.command("parity")
@click.option("--world", type=WORLD, default=8, help="ranks of a layout, at most  [default: 8]")
@click.option("--layout", "layouts", multiple=True, help="this layout alone, as in dp=2,tp=2,pp=2")
@click.option("--block", help="with a block of yours for every layer, as in my_block.py:Block")
@click.option("--only", help="layouts whose name or section has these words")
@click.option("--sample", "count", type=click.IntRange(1), help="as many layouts, evenly spread")
@click.option("--seed", default=0, help="which ones a sample takes")
@click.option("--list", "listed", is_flag=True, help="name the layouts, run none")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
def command(layouts: Sequence[str], **options: Any) -> None:
    """Hold every layout against one process: gloo ranks, float64, three steps of a small model.

    Every way of splitting alone, every two together, and every three, four and five kinds once.
    Compared are the loss, the gradient's norm, every gradient and every parameter, on every rank.
    Where one is off, it runs again and the first divergence is named: step, forward or backward,
    layer, tensor, ranks. What cannot be combined is listed with the reason. Exit code 1 if
    anything is off, or nothing could be run.

    \b
    Examples:
      shardlab parity                         the whole matrix, up to 8 ranks
      shardlab parity --world 4 --sample 20   a part of it, as a check of every change
      shardlab parity --layout dp=2,tp=2,pp=2,schedule=zb-h1
      shardlab parity --only dualpipe
      shardlab parity --block my_block.py:Block
      shardlab parity --list
      shardlab parity --json | jq '.cells[] | select(.state == "off") | .message'
    """
    every = _asked(layouts, options)
    if options["listed"]:
        _print_list(every, options["as_json"])
        return
    outcomes: list[Outcome] = []
    try:
        _run(every, outcomes)
    except KeyboardInterrupt:
        if outcomes and not options["as_json"]:
            show(outcomes)
            click.echo(f"{len(outcomes)} of {len(every)} layouts had their turn", err=True)
        raise
    if options["as_json"]:
        told = summary(outcomes, options["world"], tolerance=TOLERANCE)
        click.echo(strict_json(told))
    else:
        show(outcomes)
    red = any(outcome.state.red for outcome in outcomes)
    if red or all(outcome.state is State.REFUSED for outcome in outcomes):
        click.get_current_context().exit(1)


def _asked(layouts: Sequence[str], options: dict[str, Any]) -> Sequence[Cell]:
    """The cells that the options choose; PlanError for a layout that cannot be run here."""
    block = options["block"]
    own_block.admit({"block": block or next((x for x in layouts if "block=" in x), None)})
    if layouts:
        if any(options[name] for name in CHOOSE):
            raise click.UsageError("--only and --sample choose from the matrix: leave --layout out")
        found = [parse(text, block) for text in layouts]
        for plan in (cell.plan for cell in found if cell.plan):
            provable(plan)
            check_bears(plan)
        return found
    every: Sequence[Cell] = cells(options["world"], _tried(block) if block else None)
    if words := options["only"]:
        every = [cell for cell in every if words in cell.name or words == cell.section]
        if not every:
            raise PlanError("only", repr(words), "is in no layout's name", "zb-h1")
    if options["count"]:
        able = sample(every, options["count"], options["seed"])
        return able or every  # where none can be run, the reasons are what there is to say
    return every


def _tried(block: str) -> str | None:
    """A reader's block as plans hold it; PlanError for one that no layout could run."""
    plan = parse("dp=1", block).plan
    assert plan is not None
    own_block.described(plan)
    return plan.model.block


def _run(every: Sequence[Cell], outcomes: list[Outcome]) -> None:
    """Every outcome, under a bar that says which layout runs and how many are off."""
    with Pool(preload=PRELOAD) as pool, _bar(len(every)) as advance:
        advance(outcomes, every[0])
        for outcome in sweep(every, pool):
            outcomes.append(outcome)
            advance(outcomes, every[min(len(outcomes), len(every) - 1)])


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[at]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, at="")

        def advance(outcomes: Sequence[Outcome], here: Cell) -> None:
            red = sum(outcome.state.red for outcome in outcomes)
            off = f"{red} off; " if red else ""
            bar.update(task, completed=len(outcomes), at=f"{off}{here.name}")
            if outcomes and outcomes[-1].state.red:
                last = outcomes[-1]
                bar.console.print(f"{last.cell.name}: {last.message}", markup=False)

        yield advance


def _print_list(every: Sequence[Cell], as_json: bool) -> None:
    if not as_json:
        show_list(every)
        return
    rows = [Outcome(cell=cell, state=State.REFUSED, message=cell.refused) for cell in every]
    kept = ("layout", "name", "section", "kinds", "ways", "ranks", "model_changed", "message")
    told = [{key: row.as_json()[key] for key in kept} for row in rows]
    click.echo(strict_json({"cells": told}))

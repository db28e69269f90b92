"""`shardlab deadlock`: a classic hang, for real on this machine, with everybody's place in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from parallel_core.cli.strict_json import strict_json
from parallel_core.cli.trace_files import open_folder
from parallel_core.deadlock.finding import RANKS, TRAINING, Finding, find, find_in_training
from parallel_core.deadlock.layouts import plan_of_order
from parallel_core.deadlock.programs import CASES
from parallel_core.fields import PlanError, shown
from parallel_core.launch import Pool
from parallel_core.parity.matrix import parse
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.reading import read_file
from parallel_core.plan import Plan
from parallel_core.views.wait_for import wait_for

OUT = click.Path(dir_okay=False)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
MOST_LINES = 30
"""Instructions of a program that is shown whole."""


@click.command("deadlock")
@click.option("--case", metavar="|".join(CASES), help="[default: send-send]")
@click.option("--layout", help="a whole training instead, as in pp=4,schedule=1f1b,microbatches=8")
@click.option("--file", "file", type=FILE, help="a training in your own order: text, CSV, or JSON")
@click.option("--cured", is_flag=True, help="run the cured program: it comes to its end")
@click.option(
    "--buffered", is_flag=True, help="let sends return at once, as gloo's isend does: nothing shows"
)
@click.option("--svg", type=OUT, help="write the wait-for graph, one SVG file")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
def command(svg: str | None, as_json: bool, **asked: Any) -> None:
    """Let a classic deadlock happen on real ranks, and say who waits for whom.

    On NCCL a send stays in its stream until the receive runs, so orders that gloo forgives hang on
    GPUs, often after a day. Here messages wait for each other on CPU too: ranks that can never go
    on find that out in a second. Beside it stands what `check` says before anything runs.

    With --layout or --file a small model is trained for real, its sends and receives in line with
    its tasks, as code without asynchronous sends has them.

    \b
    Examples:
      shardlab deadlock
      shardlab deadlock --case empty-expert --svg hang.svg
      shardlab deadlock --case collective-order --buffered
      shardlab deadlock --case send-send --json | jq .live.circle
      shardlab deadlock --layout pp=4,schedule=1f1b,microbatches=8 --svg hang.svg
      shardlab deadlock --layout pp=4,schedule=1f1b,microbatches=8 --cured
      shardlab deadlock --file mine.txt
    """
    plan = _training(asked)
    if svg:
        open_folder(Path(svg))
    how = {"cured": asked["cured"], "buffered": asked["buffered"]}
    with Pool(preload=(RANKS if plan is None else TRAINING,)) as pool:
        if plan is None:
            found = find(asked["case"] or "send-send", pool, **how)
        else:
            found = find_in_training(plan, pool, **how)
    if svg and found.graph is not None:
        picture = wait_for(found.graph, title=found.case.story, badge=found.trace.provenance.badge)
        Path(svg).write_text(picture, encoding="utf-8")
    if as_json:
        click.echo(strict_json(summary(found, **how)))
    else:
        _print(found, svg)


def _training(asked: dict[str, Any]) -> Plan | None:
    """The plan of the training that was asked for; None for a case. Options that contradict each
    other are refused."""
    given = [name for name in ("case", "layout", "file") if asked[name] is not None]
    if len(given) > 1:
        rule = f"stands beside --{given[1]}: give one of the two"
        raise PlanError(given[0], shown(str(asked[given[0]])), rule, "none")
    if asked["cured"] and asked["buffered"]:
        raise PlanError("buffered", "true", "stands beside --cured: give one of the two", "false")
    if asked["layout"] is not None:
        return parse(asked["layout"]).plan
    if asked["file"] is None:
        return None
    order = read_file(asked["file"])
    legal(order)
    return plan_of_order(order)


def summary(found: Finding, *, cured: bool, buffered: bool) -> dict[str, Any]:
    """A finding, JSON-ready: what check says, and what happened; times in seconds."""
    graph = found.graph
    return {
        "case": found.case.name,
        "story": found.case.story,
        "cure": found.case.cure,
        "cured": cured,
        "buffered": buffered,
        "program": str(found.program),
        "check": {"program": found.written, "what_ran": found.ran or None},
        "live": {
            "sentence": found.sentence,
            "seconds": found.seconds,
            "ended": found.ended,
            "losses": found.losses,
            "deadlocked": () if graph is None else graph.deadlocked,
            "circle": () if graph is None else graph.circle,
            "stands": [] if graph is None else [stand.as_json() for stand in graph.stands],
            "waits": []
            if graph is None
            else [{"rank": a.waiter, "for": a.peer, "which": a.why} for a in graph.arrows],
        },
        "record": found.blame,
        "badge": found.trace.provenance.badge,
    }


def _print(found: Finding, svg: str | None) -> None:
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"{found.case.name}: {found.case.story}", style="bold")
    if sum(map(len, found.program.ranks)) <= MOST_LINES:
        out.print(str(found.program).rstrip(), markup=False)
        out.print()
    out.print(f"check, before it runs:  {found.written}", markup=False)
    took = f" ({found.seconds:.1f} s)" if found.graph is not None else ""
    out.print(f"live:  {found.sentence}{took}", markup=False)
    if found.graph is not None:
        for arrow in found.graph.arrows:
            out.print(f"  rank {arrow.waiter} waits for rank {arrow.peer}, which {arrow.why}")
    if found.losses:
        out.print(f"loss:  {', '.join(f'{loss:.6f}' for loss in found.losses)}", markup=False)
    if found.ran:
        out.print(f"check, of the calls that were made:  {found.ran}", markup=False)
    if found.graph is not None:
        out.print(f"cure:  {found.case.cure} (--cured)")
    if svg:
        out.print(f"graph: {svg}" if found.graph is not None else f"no graph, so no {svg}")
    out.print(found.trace.provenance.badge, style="dim", markup=False)

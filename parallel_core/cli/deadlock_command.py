"""`shardlab deadlock`: a classic hang, for real on this machine, with everybody's place in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from parallel_core.cli.strict_json import strict_json
from parallel_core.cli.trace_files import open_folder
from parallel_core.deadlock.finding import RANKS, Finding, find
from parallel_core.deadlock.programs import CASES
from parallel_core.launch import Pool
from parallel_core.views.wait_for import wait_for

OUT = click.Path(dir_okay=False)


@click.command("deadlock")
@click.option("--case", default="send-send", metavar="|".join(CASES), help="[default: send-send]")
@click.option("--cured", is_flag=True, help="run the cured program: it comes to its end")
@click.option(
    "--buffered", is_flag=True, help="let sends return at once, as gloo's isend does: nothing shows"
)
@click.option("--svg", type=OUT, help="write the wait-for graph, one SVG file")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
def command(case: str, cured: bool, buffered: bool, svg: str | None, as_json: bool) -> None:
    """Let a classic deadlock happen on real ranks, and say who waits for whom.

    On NCCL a send stays in its stream until the receive runs, so orders that gloo forgives hang on
    GPUs, often after a day. Here messages wait for each other on CPU too: ranks that can never go
    on find that out in a second. Beside it stands what `check` says before anything runs.

    \b
    Examples:
      shardlab deadlock
      shardlab deadlock --case empty-expert --svg hang.svg
      shardlab deadlock --case collective-order --buffered
      shardlab deadlock --case send-send --json | jq .live.circle
    """
    if svg:
        open_folder(Path(svg))
    with Pool(preload=(RANKS,)) as pool:
        found = find(case, pool, cured=cured, buffered=buffered)
    if svg and found.graph is not None:
        picture = wait_for(found.graph, title=found.case.story, badge=found.trace.provenance.badge)
        Path(svg).write_text(picture, encoding="utf-8")
    if as_json:
        click.echo(strict_json(summary(found, cured=cured, buffered=buffered)))
    else:
        _print(found, svg)


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
    out.print(str(found.program).rstrip(), markup=False)
    out.print()
    out.print(f"check, before it runs:  {found.written}", markup=False)
    took = f" ({found.seconds:.1f} s)" if found.graph is not None else ""
    out.print(f"live:  {found.sentence}{took}", markup=False)
    if found.graph is not None:
        for arrow in found.graph.arrows:
            out.print(f"  rank {arrow.waiter} waits for rank {arrow.peer}, which {arrow.why}")
    if found.ran:
        out.print(f"check, of the calls that were made:  {found.ran}", markup=False)
    if found.graph is not None:
        out.print(f"cure:  {found.case.cure} (--cured)")
    if svg:
        out.print(f"graph: {svg}" if found.graph is not None else f"no graph, so no {svg}")
    out.print(found.trace.provenance.badge, style="dim", markup=False)

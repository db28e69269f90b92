"""`shardlab trace`: where the time of a trace went, beside another one if you like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from parallel_core.analysis.bubble import Bubble, bubble
from parallel_core.analysis.compare import Comparison, compare, medians
from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.stuck import stuck
from parallel_core.analysis.waits import totals, waits
from parallel_core.cli.strict_json import strict_json
from parallel_core.importers.load import load_many
from parallel_core.program import Op
from parallel_core.quantities import time_text
from parallel_core.trace import Trace
from parallel_core.views.reading import bubble_text
from parallel_core.views.tables import Row, compare_rows, total_rows, use_rows

FILE = click.Path(exists=True, dir_okay=False)
OUT = click.Path(dir_okay=False)
LONGEST = 8
MANY = 6  # ranks: more get no column each


@click.command("trace")
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--before", multiple=True, type=FILE, help="compare with this earlier trace")
@click.option("--warmup", type=click.IntRange(0), default=0, help="leave out the first steps")
@click.option("--perfetto", type=OUT, help="write Chrome JSON, which ui.perfetto.dev opens")
@click.option("--html", type=OUT, help="write the player, one self-contained HTML file")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def command(
    files: tuple[str, ...],
    before: tuple[str, ...],
    warmup: int,
    perfetto: str | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Read one trace: FILES are those of one job, usually one file a rank.

    A trace of ours (`shardlab run --trace`), a torch.profiler trace, or an NCCL flight record as
    JSON; gzip is fine, pickles are never read.

    \b
    Examples:
      shardlab trace out.json
      shardlab trace rank0.json.gz rank1.json.gz --perfetto both.json
      shardlab trace after.json --before before.json --warmup 2
    """
    trace = _load(files)
    both = compare(_load(before), trace, warmup=warmup) if before else None
    if perfetto:
        from parallel_core.exports import chrome_trace

        Path(perfetto).write_text(strict_json(chrome_trace(trace)), encoding="utf-8")
    if html:
        from parallel_core.views.player import html as player_html

        Path(html).write_text(player_html(trace), encoding="utf-8")
    idle = bubble(trace)
    found = summary(trace, idle, warmup)
    if as_json:
        compared = None if both is None else {"account": both.account, "ops": compare_rows(both)}
        click.echo(strict_json({**found, "comparison": compared}))
    else:
        _print(found, idle, both)


def _load(files: tuple[str, ...]) -> Trace:
    return load_many([(Path(file).name, Path(file).read_bytes()) for file in files])


def summary(trace: Trace, idle: Bubble, warmup: int) -> dict[str, Any]:
    """What a trace tells, JSON-ready; times in milliseconds, the first `warmup` steps left out
    of the shares and the medians."""
    path = critical_path(trace)
    work = [one for one in medians(trace, warmup=warmup).values() if one.op != Op.WAIT]
    longest = sorted(work, key=lambda one: -one.median_ns)
    return {
        "badge": trace.provenance.badge,
        "kind": trace.kind.value,
        "world_size": trace.world_size,
        "steps": len(trace.steps),
        "spans": len(trace.spans),
        "makespan_ms": trace.makespan / 1e6,
        "use": use_rows(exposed(trace, warmup=warmup)),
        "messages": total_rows(totals(waits(trace))),
        "inside": _inside_rows(trace),
        "bubble": _bubble(idle),
        "critical_path": {"account": path.account, "shares": path.shares},
        "longest": [
            {"op": one.label, "median_ms": one.median_ns / 1e6, "times_run": one.count}
            for one in longest[:LONGEST]
        ],
        "stuck": [hang.sentence for hang in stuck(trace)],
    }


def _bubble(found: Bubble) -> dict[str, Any]:
    """Idle time by cause, JSON-ready: of all steps together, what lies between them included."""
    return {
        "bubble_fraction": found.bubble_fraction,
        "internal_fraction": found.internal_fraction,
        "ranks": [
            {
                "rank": rank.rank,
                "work_ms": rank.work_ns / 1e6,
                "idle_ms": {cause.value: ns / 1e6 for cause, ns in rank.causes.items()},
                "peak_in_flight": rank.in_flight,
                "peak_bytes": rank.memory,
            }
            for rank in found.ranks
        ],
    }


def _print(found: dict[str, Any], idle: Bubble, both: Comparison | None) -> None:
    out = Console()
    makespan = time_text(found["makespan_ms"] * 1e6)
    out.print(
        f"{found['world_size']} ranks, {found['steps']} steps, {found['spans']:,} spans, "
        f"{makespan} from first start to last end"
    )
    out.print(found["badge"], style="dim")
    hidden_and_exposed = [
        {name: cell for name, cell in row.items() if name != "communication (ms)"}
        for row in found["use"]
    ]
    out.print(_table("how each rank spent its time", hidden_and_exposed))
    if found["messages"]:
        out.print(_table("messages: waiting told apart from the wire", found["messages"]))
    if found["inside"]:
        title = "messages inside tasks, whose time is compute above"
        out.print(_table(title, found["inside"]))
    out.print(_table("why they stood still, all steps together", _cause_rows(idle)))
    out.print(f"idle of all ranks' time: {bubble_text(idle)}")
    out.print(f"critical path: {found['critical_path']['account']}")
    slowest = ", ".join(f"{o['op']} {time_text(o['median_ms'] * 1e6)}" for o in found["longest"])
    out.print(f"longest ops (median over steps): {slowest}")
    for sentence in found["stuck"]:
        out.print(f"stuck: {sentence}", style="bold")
    if both is not None:
        out.print(_table("against the trace before", compare_rows(both)[:LONGEST]))
        out.print(both.account)


def _inside_rows(trace: Trace) -> list[Row]:
    """A line a kind of message that tasks hold themselves, all steps and ranks together; one that
    overlap hides is timed from its begin to its end as well."""
    found: dict[str, list[tuple[int, int]]] = {}
    for span in trace.spans:
        for op, axis, _, size, start, done in span.inside:
            found.setdefault(f"{op} @{axis}", []).append((size, done - start))
    return [
        {
            "message": name,
            "sent": len(told),
            "payload (MB)": round(sum(size for size, _ in told) / 1e6, 3),
            "under way (ms a rank)": _ms(sum(ns for _, ns in told) // trace.world_size),
        }
        for name, told in sorted(found.items())
    ]


def _cause_rows(idle: Bubble) -> list[Row]:
    """A line a cause; a column a rank, or one for all where they are many."""
    ranks = {f"rank {one.rank} (ms)": one.causes for one in idle.ranks}
    columns = ranks if len(ranks) <= MANY else {"all ranks (ms)": idle.causes}
    return [
        {"cause": cause.value, **{n: _ms(each.get(cause, 0)) for n, each in columns.items()}}
        for cause in idle.causes
    ]


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(*rows[0], title=title) if rows else Table(title=title)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row.values()))
    return table

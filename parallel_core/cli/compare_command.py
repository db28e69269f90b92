"""`shardlab compare`: layouts of one model side by side, or their losses over many steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from parallel_core import own_block
from parallel_core.cli.bench_options import count, taken
from parallel_core.cli.plan_options import field_options, given
from parallel_core.cli.strict_json import strict_json
from parallel_core.plan import LAYOUT, flat_fields

TRAINED = {name: spec for name, spec in flat_fields().items() if name not in LAYOUT}
"""The fields that all layouts share."""


@click.command("compare")
@click.argument("layouts", nargs=-1)
@count("rounds", "rounds: in each, every layout has a turn  [default: 3]")
@count("steps", "steps a turn, the first left out  [default: 6; with --curves 500]")
@click.option("--curves", is_flag=True, help="losses over many steps instead of the table")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
@lambda command: field_options(command, TRAINED)
def command(layouts: tuple[str, ...], *, curves: bool, as_json: bool, **options: Any) -> None:
    """Run layouts on the same model and data by turns, and lay what was measured side by side.

    Throughput, latency, utilisation, communication, memory, loss, each with its spread; beside
    them what the textbook expects, seen or not, and why not. A layout is fields of a plan,
    separated by commas; without any, nine common ones. With --curves it may name a dtype.

    \b
    Examples:
      shardlab compare
      shardlab compare dp=1 dp=4 "dp=4,zero=3" "pp=4,schedule=zb-h1" --rounds 6
      shardlab compare dp=1 tp=2 --hidden 256 --json | jq .rows
      shardlab compare --curves --steps 500
      shardlab compare dtype=float64 "tp=2,dtype=float64" dtype=bfloat16 --curves
    """
    flat = given(options)
    own_block.admit(flat)
    report = _curves(layouts, flat) if curves else _table(layouts, flat)
    if as_json:
        click.echo(strict_json(report))
    elif curves:
        _show_curves(report)
    else:
        _show_table(report)


def _table(layouts: tuple[str, ...], flat: dict[str, Any]) -> dict[str, Any]:
    from parallel_core.cases import PRELOAD
    from parallel_core.compare import rounds
    from parallel_core.compare.layouts import USUAL, Turns, borne, contenders
    from parallel_core.compare.rate import rate_here
    from parallel_core.compare.table import table
    from parallel_core.launch import Pool

    turns = Turns(**taken(flat, Turns))
    found = borne(contenders(layouts or USUAL, flat))
    with Pool(preload=PRELOAD) as pool, _bar() as say:
        runs = rounds.measure(found, turns, pool, say)
        say("the peak of a device", 1.0)
        rate = rate_here(pool, found[0].plan.dtype)
    return table(found, runs, turns, rate)


def _curves(layouts: tuple[str, ...], flat: dict[str, Any]) -> dict[str, Any]:
    from parallel_core.cases import PRELOAD
    from parallel_core.compare import curves
    from parallel_core.compare.layouts import borne, contenders
    from parallel_core.launch import Pool

    if flat.pop("rounds", None) is not None:
        raise click.UsageError("--rounds is for the table: a curve is the same every time")
    steps = curves.Steps(**taken(flat, curves.Steps)).steps
    also = () if "dtype" in flat else curves.ALSO
    base = {**curves.SMALL, **flat}
    found = borne(contenders(layouts or curves.USUAL, base, also=also))
    with Pool(preload=PRELOAD) as pool, _bar() as say:
        losses = curves.measure(found, steps, pool, say)
    return curves.report(found, losses)


@contextmanager
def _bar() -> Iterator[Any]:
    """A bar on stderr; interrupting ends the run that is going."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda text, share: bar.update(task, completed=share, description=text)


def _show_table(report: Mapping[str, Any]) -> None:
    from parallel_core.views import compare_table as view

    out = Console(highlight=False)
    _print(out, view.rows(report, view.SPEED), "speed")
    _print(out, view.rows(report, view.PRICE), "what it costs and brings")
    out.print("What the textbook expects", style="bold")
    for row in view.expectations(report):
        says, figure, of, against, ratio, here = row.values()
        out.print(f"  {says}: {figure}, {of} against {against}: [bold]{here}[/]"
                  + (f", {ratio} times" if ratio else ""))  # fmt: skip
    out.print("Recap", style="bold")
    for row in view.recap(report):
        words = "\n".join(f"    {name}: {word}" for name, word in list(row.items())[1:])
        out.print(f"  [bold]{row['layout']}[/]\n{words}")
    for words in (view.mfu_words(report), view.machine_words(report)):
        out.print(words, style="dim")


def _show_curves(report: Mapping[str, Any]) -> None:
    from parallel_core.views import compare_curves as view

    out = Console(highlight=False)
    _print(out, view.rows(report["lines"]), str(report["title"]))
    out.print(view.in_words(report))
    out.print(view.machine_words(report), style="dim")


def _print(out: Console, rows: list[dict[str, str]], title: str) -> None:
    """Rows as a table, or as several one below the other where a word would break."""
    first, *names = rows[0]
    for part in fitting(rows, out.width):
        table = Table(title=title if part[0] == names[0] else f"{title}, further")
        chosen = (first, *part)
        for name, width in zip(chosen, _widths(rows, chosen, out.width), strict=True):
            table.add_column(_heading(name), overflow="fold", width=width)
        for row in rows:
            table.add_row(*(row[name] for name in chosen))
        out.print(table)


FRAME = 3
"""Characters that a column takes beside its own: a space on both sides, and a line."""


def fitting(rows: Sequence[Mapping[str, str]], width: int) -> list[list[str]]:
    """The columns after the first, by tables of at most `width`: no word is broken in them."""
    first, *names = rows[0]
    begin = _least(rows, first, width) + FRAME + 1
    parts: list[list[str]] = []
    room = 0
    for name in names:
        takes = _least(rows, name, width) + FRAME
        if not parts or takes > room:
            parts.append([])
            room = width - begin
        parts[-1].append(name)
        room -= takes
    return parts


def _widths(rows: Sequence[Mapping[str, str]], names: Sequence[str], width: int) -> Iterator[int]:
    """Of these columns: the longest word of each, and then what is left to who needs it."""
    least = [_least(rows, name, width) for name in names]
    left = width - 1 - sum(least) - FRAME * len(names)
    for name, takes in zip(names, least, strict=True):
        lines = [*_heading(name).splitlines(), *(row[name] for row in rows)]
        more = max(min(max(map(len, lines)) - takes, left), 0)
        left -= more
        yield takes + more


def _least(rows: Sequence[Mapping[str, str]], name: str, width: int) -> int:
    """The longest word of a column, but no more than half of the screen."""
    words = [word for text in (name, *(row[name] for row in rows)) for word in text.split()]
    return min(max(map(len, words), default=1), width // 2 - FRAME - 1)


def _heading(name: str) -> str:
    return name.replace(" (", "\n(")

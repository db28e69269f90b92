"""`shardlab loom`: a product of matrices cut over tensor-parallel ranks, for real or on paper."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parallel_core.cli.plan_options import given
from parallel_core.cli.strict_json import strict_json
from parallel_core.cli.trace_files import open_folder, write_trace
from parallel_core.loom.figures import modelled
from parallel_core.loom.report import follow, predicted_report
from parallel_core.loom.request import LoomRequest
from parallel_core.loom.weave import PATTERNS
from parallel_core.loom.words import reads_as
from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Trace

PRELOAD = ("parallel_core.loom_live",)
EQUAL = "equal to one process, but for the order of additions"


def request_options(command: Any) -> Any:
    """One option a field of LoomRequest; parsing is left to the fields."""
    for spec in reversed(fields(LoomRequest)):
        meta, flag = spec.metadata, f"--{spec.name}"
        if meta["kind"] is bool:
            option = click.option(flag, spec.name, is_flag=True, default=None, help=meta["help"])
        else:
            kind = "|".join(meta.get("choices", ())) or meta["kind"].__name__.upper()
            text = f"{meta['help']}  [default: {spec.default}]" if spec.default else meta["help"]
            option = click.option(flag, spec.name, metavar=kind, help=text)
        command = option(command)
    return command


@click.command("loom")
@request_options
@click.option("--simulate", is_flag=True, help="predict, and start no process")
@click.option("--list", "listing", is_flag=True, help="show every layout")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
@click.option(
    "--trace", type=click.Path(dir_okay=False), help="write the trace (opens in trace pages)"
)
def command(**options: Any) -> int:
    """Cut X @ W, or act(X @ A) @ B, over real processes; count, and compare with one process.

    Exit code 1 if a result differs from one process by more than the order of additions explains
    (late-sum does), or a count from its prediction.

    \b
    Examples:
      shardlab loom --layout column-row --ranks 4
      shardlab loom --layout row-column --act gelu --backward
      shardlab loom --layout column-row --sp --backward --json
      shardlab loom --layout late-sum
      shardlab loom --layout row --n 512 --k 4096 --m 4096 --numbers normal
      shardlab loom --layout column --n 4096 --k 4096 --m 4096 --numbers normal --simulate
      shardlab loom --list
    """
    as_json, listing, simulate = (options.pop(key) for key in ("as_json", "listing", "simulate"))
    if listing:
        _list(as_json)
        return 0
    asked = given(options)
    file = Path(asked.pop("trace")) if "trace" in asked else None
    if file is not None:
        open_folder(file)
    request = LoomRequest(**asked)
    report, trace = _simulated(request) if simulate else _live(request)
    if file is not None:
        write_trace(trace, file)
        report["trace"] = str(file)
    if as_json:
        click.echo(strict_json(report))
    else:
        _show(request, report)
    return 0 if report.get("kept", True) and report.get("agree", True) else 1


def _live(request: LoomRequest) -> tuple[dict[str, Any], Trace]:
    from parallel_core.launch import Pool

    line = Console(stderr=True).status(f"{request.layout}: {request.ranks} processes")
    with line, Pool(preload=PRELOAD) as pool:
        report, view, _ = follow(request, pool)
    return report, view.typical()


def _simulated(request: LoomRequest) -> tuple[dict[str, Any], Trace]:
    trace = modelled(request)
    report = predicted_report(request) | {"seconds": trace.makespan / 1e9}
    return report | {"provenance": {"badge": trace.provenance.badge}}, trace


def _list(as_json: bool) -> None:
    if as_json:
        click.echo(strict_json({name: asdict(pattern) for name, pattern in PATTERNS.items()}))
        return
    table = Table("layout", "what is cut", "forward")
    for name, pattern in PATTERNS.items():
        weave = LoomRequest(layout=name).weave
        steps = [reads_as(weave, step) for step in weave.steps]
        table.add_row(name, pattern.words, escape("\n".join(steps)), end_section=True)
    Console().print(table)


def _show(request: LoomRequest, report: dict[str, Any]) -> None:
    out, weave = Console(), request.weave
    sizes = ", ".join(f"{name}={size}" for name, size in request.sizes.items())
    out.print(f"{weave.program.name}, {sizes}, {request.numbers}", style="bold", highlight=False)
    for at, step in enumerate(weave.steps):
        half = "forward " if at < weave.turn else "backward"
        out.print(f"  {half}  {reads_as(weave, step)}", highlight=False, markup=False)
    if report["refused"]:
        out.print(f"not proved: {report['refused']}", highlight=False)
    elif report["terms_proved"]:
        out.print(f"proved: {report['terms_proved']} parts, each summed once", highlight=False)
    else:
        out.print("no sum goes over ranks", highlight=False)
    out.print(_counts(report))
    for name, each in report.get("errors", {}).items():
        said = f"max |{name} on the ranks - {name} of one process| = {each['max_abs']:.3g}"
        out.print(f"{said}, where the largest is {each['largest']:.3g}", highlight=False)
    if "kept" in report:
        out.print(EQUAL if report["kept"] else "WRONG: not one process's result")
    out.print(f"time {time_text(1e9 * report['seconds'])}", highlight=False)
    out.print(report["provenance"]["badge"], style="dim")


def _counts(report: dict[str, Any]) -> Table:
    live = "measured" in report["messages"]
    table = Table("of rank 0", "predicted", *(["counted", ""] if live else []))
    for key, words in (("messages", str), ("payload_bytes", bytes_text)):
        for half, name in enumerate(("forward", "backward")):
            both = [side[half] for side in report[key].values()]
            _row(table, f"{key.replace('_', ' ')}, {name}", both, words)
    _row(table, "bytes that leave all ranks", list(report["wire_bytes"].values()), bytes_text)
    _row(table, "FLOPs", [side[0] for side in report["flops"].values()], lambda x: f"{x:,}")
    for name in report["bytes"]["predicted"]:
        both = [side[name] for side in report["bytes"].values()]
        _row(table, f"bytes of {report['layouts'][name]}", both, bytes_text)
    return table


def _row(table: Table, name: str, both: list[Any], words: Any) -> None:
    same = ["=" if both[0] == both[1] else "differs"] if len(both) == 2 else []
    table.add_row(escape(name), *map(words, both), *same)

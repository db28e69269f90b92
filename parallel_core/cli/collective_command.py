"""`shardlab collective`: one collective, for real or on a simulated cluster."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from parallel_core.cli import collective_tables
from parallel_core.cli.plan_options import given
from parallel_core.cli.sizes_option import bytes_of
from parallel_core.cli.strict_json import strict_json
from parallel_core.cli.trace_files import open_folder, write_player, write_trace
from parallel_core.collectives import ALGORITHMS
from parallel_core.collectives.forecast import SPELLED_OUT, TORUS, forecast
from parallel_core.collectives.request import CollectiveRequest
from parallel_core.fields import PlanError
from parallel_core.hardware.links import wire
from parallel_core.hardware.topologies import topology
from parallel_core.trace import Trace

FILE = click.Path(dir_okay=False)
TRANSPORTS = ("p2p", "shm")
SIMULATED = ("topology", "link", "across")


def request_options(command: Any) -> Any:
    """One option a field of CollectiveRequest, but for the op; parsing is left to the fields."""
    for spec in reversed(fields(CollectiveRequest)):
        if spec.name == "op":
            continue
        default = "ring, else the op's first" if spec.name == "algorithm" else spec.default
        text = f"{spec.metadata['help']}  [default: {default}]"
        kind = "SIZE" if spec.name == "bytes" else spec.metadata["kind"].__name__.upper()
        command = click.option(f"--{spec.name}", spec.name, metavar=kind, help=text)(command)
    return command


@click.command("collective")
@click.argument("op", required=False)
@request_options
@click.option("--transport", default="p2p", metavar="p2p|shm", help="messages, or shared memory")
@click.option("--simulate", is_flag=True, help="predict, and start no process")
@click.option("--topology", help="with --simulate: ring:8, torus:4x4, fat-tree:64, two-level:4x8")
@click.option("--link", help="with --simulate: the wire, as nvlink4  [default: loopback]")
@click.option("--across", help="with --simulate: the wire between nodes of a two-level cluster")
@click.option("--list", "listing", is_flag=True, help="show every op and its algorithms")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
@click.option("--trace", type=FILE, help="write the trace (opens in Perfetto and in trace pages)")
@click.option("--html", type=FILE, help="write the player, one self-contained HTML file")
def command(op: str | None, **options: Any) -> int:
    """Run one collective message by message, and hold it against its promise and torch's own.

    OP is all_reduce, all_gather, reduce_scatter, broadcast, ...: --list shows them all. Exit code
    1 if a rank ends with something other than what it was promised.

    \b
    Examples:
      shardlab collective all_reduce
      shardlab collective all_reduce --algorithm ring --ranks 4 --bytes 64MiB
      shardlab collective all_to_all --algorithm bruck --ranks 3 --dtype int64 --json
      shardlab collective all_reduce --transport shm --algorithm two_shot
      shardlab collective all_reduce --simulate --topology torus:4x4 --link nvlink4
      shardlab collective all_reduce --simulate --topology torus:16x16x16 --algorithm torus
      shardlab collective --list
    """
    as_json, listing, simulate = (options.pop(key) for key in ("as_json", "listing", "simulate"))
    paths = given({key: options.pop(key) for key in ("trace", "html")})
    files, asked = {key: Path(path) for key, path in paths.items()}, given(options)
    if listing:
        collective_tables.show_list(as_json)
        return 0
    if op is None:
        rule = "must be given; shardlab collective --list shows every op"
        raise PlanError("op", "nothing", rule, "all_reduce")
    if "bytes" in asked:
        asked["bytes"] = bytes_of(asked["bytes"])
    for file in files.values():
        open_folder(file)
    transport = asked.pop("transport")
    if transport == "p2p" and op in ALGORITHMS and "ring" not in ALGORITHMS[op]:
        asked.setdefault("algorithm", next(iter(ALGORITHMS[op])))
    if simulate:
        report, trace = _simulated(op, asked, transport)
    else:
        report, trace = _live(op, asked, transport, wants_trace=bool(files))
    _write(files, trace, report)
    if as_json:
        click.echo(strict_json(report))
    else:
        collective_tables.show(report)
    return 0 if report.get("kept", True) else 1


def _live(
    op: str, asked: dict[str, Any], transport: str, *, wants_trace: bool
) -> tuple[dict[str, Any], Trace]:
    """The report of a run on real processes, and the trace of all its repeats."""
    from parallel_core.cli.collective_live import follow, through_memory

    for key in SIMULATED:
        if key in asked:
            rule = "describes a cluster that is not here: add --simulate, or leave it out"
            raise PlanError(key, asked[key], rule, "none")
    if transport not in TRANSPORTS:
        raise PlanError("transport", transport, "must be one of p2p, shm", "p2p")
    with Console(stderr=True).status(f"{op}: starting") as line:
        if transport == "p2p":
            return follow(CollectiveRequest(op=op, **asked), line.update)
        if wants_trace:
            rule = "sends no messages that a trace could hold"
            raise PlanError("transport", transport, rule, "p2p")
        return through_memory({"op": op, **asked}, line.update)


def _simulated(op: str, asked: dict[str, Any], transport: str) -> tuple[dict[str, Any], Trace]:
    """The report of a forecast, and its trace."""
    if transport != "p2p":
        raise PlanError("transport", transport, "cannot be simulated", "p2p")
    if "repeats" in asked:
        raise PlanError("repeats", asked["repeats"], "changes nothing in a simulation", 1)
    text, link, across = (asked.pop(key, None) for key in SIMULATED)
    chosen = None if link is None else wire(link)
    place = None
    if text is not None:
        far = None if across is None else wire(across)
        place = topology(text, wire=chosen, across=far)
        asked.setdefault("ranks", place.ranks)
    elif across is not None:
        raise PlanError("across", across, "joins the nodes of a two-level topology", "none")
    along = asked.get("algorithm") == TORUS
    if along:
        asked["algorithm"] = next(iter(ALGORITHMS.get(op, {"ring": None})))  # stands in for it
    request = CollectiveRequest(op=op, **asked)
    plain = (chosen or wire("loopback")).link
    with Console(stderr=True).status(f"{op}: simulating {request.ranks} ranks"):
        found = forecast(request, plain, place, along_dimensions=along)
    return found.report(), found.trace


def _write(files: dict[str, Path], trace: Trace, report: dict[str, Any]) -> None:
    """The files that were asked for."""
    shown = {span.rank for span in trace.spans}
    if files and len(shown) < trace.world_size and report.get("folded"):
        rule = "are folded into one, which is no trace of them all"
        raise PlanError("ranks", trace.world_size, rule, SPELLED_OUT)
    if "trace" in files:
        write_trace(trace, files["trace"])
        report["trace"] = str(files["trace"])
    if "html" in files:
        write_player(trace, files["html"], trace.provenance.title)
        report["html"] = str(files["html"])

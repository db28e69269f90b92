"""`shardlab link`: what a message between two processes of this machine costs, by its size."""

from __future__ import annotations

import statistics
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from parallel_core.bench.circumstances import circumstances
from parallel_core.cli.strict_json import strict_json
from parallel_core.collectives.ramp import Point, RampLink, fit_plain, fit_ramp, relative_errors
from parallel_core.cost import Link
from parallel_core.launch import Pool
from parallel_core.program import Op
from parallel_core.quantities import bytes_text, time_text

PING = "parallel_core.collectives.ping"
UNSTEADY = 4  # between the deciles of a quiet machine there is less than that
POINT = ("bytes", "seconds", "low", "high", "trips")


@click.command("link")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
def command(as_json: bool) -> None:
    """Measure latency and bandwidth: two real processes pass messages to and fro.

    Two models are fitted to the points: alpha-beta (every message waits alpha seconds, then moves
    beta bytes a second), and one whose bandwidth rises with the size of the message.

    \b
    Examples:
      shardlab link
      shardlab link --json | jq .models.alpha_beta
    """
    points = ping()
    found = {
        "points": points,
        "models": fits(points),
        "warnings": doubts(points),
        **circumstances(),
    }
    if as_json:
        click.echo(strict_json(found))
    else:
        _show(found)


def ping() -> list[dict[str, Any]]:
    """The points of a ping-pong between two processes, told on stderr as they come."""
    err = Console(stderr=True)
    points = []
    waiting = err.status("starting two processes")
    with waiting, Pool(preload=(PING,)) as pool, pool.start(f"{PING}:ping", 2, {}) as run:
        for event in run.events():
            if event["event"] == "point":
                point = {name: event[name] for name in POINT}
                points.append(point)
                size, time = bytes_text(point["bytes"]), time_text(point["seconds"] * 1e9)
                err.print(f"{size:>9}  {time:>8}  {point['trips']} round trips")
        run.wait()
    return points


def fits(points: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Both models, fitted to the points: their numbers, what they predict, and how far off.

    The fastest tenth of the messages is the link; on a machine that others use too, the median is
    mostly their turn on its cores.
    """
    measured: list[Point] = [(point["bytes"], point["low"]) for point in points]
    return {
        "alpha_beta": _model(fit_plain(measured), measured),
        "ramp": _model(fit_ramp(measured), measured),
    }


def doubts(points: list[dict[str, Any]]) -> list[str]:
    """What makes the points weaker than they look."""
    shaky = [bytes_text(p["bytes"]) for p in points if p["high"] > UNSTEADY * p["low"]]
    if not shaky:
        return []
    return [
        f"the machine is busy: the slowest tenth of the messages took over {UNSTEADY} times as"
        f" long as the fastest at {', '.join(shaky)}; measure again when it is quiet"
    ]


def _model(link: Link, measured: list[Point]) -> dict[str, Any]:
    off = relative_errors(link, measured)
    return {
        "alpha_s": link.alpha,
        "beta_bytes_s": link.beta,
        "half_bytes": link.half if isinstance(link, RampLink) else None,
        "alpha_beta_bytes": link.alpha * link.beta,
        "seconds": [link.seconds(Op.SEND, round(size), 2) for size, _ in measured],
        "relative_errors": list(off),
        "mean_error": statistics.fmean(map(abs, off)),
        "largest_error": max(map(abs, off)),
    }


def _show(found: dict[str, Any]) -> None:
    out = Console()
    columns = ("message", "measured", "alpha-beta", "off by", "ramp", "off by")
    table = Table(*columns, title="one way, the fastest tenth")
    plain, ramp = found["models"]["alpha_beta"], found["models"]["ramp"]
    for i, point in enumerate(found["points"]):
        cells = [bytes_text(point["bytes"]), time_text(point["low"] * 1e9)]
        for model in (plain, ramp):
            cells += [time_text(model["seconds"][i] * 1e9), f"{model['relative_errors'][i]:+.0%}"]
        table.add_row(*cells)
    out.print(table)
    for name, model in (("alpha-beta", plain), ("ramp", ramp)):
        out.print(
            f"{name}: alpha {time_text(model['alpha_s'] * 1e9)}, beta"
            f" {model['beta_bytes_s'] / 1e9:.3g} GB/s, off by {model['mean_error']:.0%} on average,"
            f" {model['largest_error']:.0%} at most"
        )
    if ramp["half_bytes"]:
        out.print(f"ramp: half of its bandwidth at {bytes_text(ramp['half_bytes'])} a message")
    out.print(
        f"alpha x beta = {bytes_text(plain['alpha_beta_bytes'])}: there latency and bandwidth cost"
        " the same; far smaller messages are all latency, far larger ones all bandwidth"
    )
    machine, load = found["machine"], found["load_average"]
    out.print(
        f"measured: gloo, two processes, {machine['processor']}, {machine['cores']} cores,"
        f" {found['date']}; load average {load[0]:.1f}",
        style="dim",
    )
    for warning in found["warnings"]:
        Console(stderr=True).print(f"warning: {warning}", style="yellow")

"""What a terminal shows of a collective: predicted beside measured, ours beside torch's."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from parallel_core.cli.strict_json import strict_json
from parallel_core.collectives import ALGORITHMS, TRANSPOSE
from parallel_core.collectives.formulas import FORMULAS
from parallel_core.quantities import bytes_text, time_text

MANY = 8  # ranks up to which each has a row


def show_list(as_json: bool) -> None:
    """Every op, its transpose and its algorithms, with their cost on paper."""
    if as_json:
        click.echo(
            strict_json(
                {
                    op: {
                        "transpose": TRANSPOSE.get(op),
                        "algorithms": {name: FORMULAS[op][name].text for name in names},
                    }
                    for op, names in ALGORITHMS.items()
                }
            )
        )
        return
    table = Table("op", "backward", "algorithm", "time: α a message, S/β for the bytes")
    for op, names in ALGORITHMS.items():
        for at, name in enumerate(names):
            first = (op, TRANSPOSE.get(op, "none")) if at == 0 else ("", "")
            table.add_row(*first, name, FORMULAS[op][name].text, end_section=at + 1 == len(names))
    out = Console()
    out.print(table)
    out.print("with --simulate also all_reduce by torus: one dimension of a torus after the other")


def show(report: dict[str, Any]) -> None:
    """A report, live or simulated, on stdout."""
    out = Console()
    asked = report["request"]
    said = [f"{asked['op']} by {asked['algorithm']}", f"{asked['ranks']} ranks"]
    if asked["op"] != "barrier":
        said.append(f"{bytes_text(asked['bytes'])} of {asked['dtype']}")
    out.print(", ".join(said), style="bold")
    if "steps" in report:
        _simulated(out, report)
    else:
        _live(out, report)
    out.print(report["provenance"]["badge"], style="dim")


def _live(out: Console, report: dict[str, Any]) -> None:
    out.print(_ledger(report))
    out.print(_times(report))
    kept = "kept" if report["kept"] else "BROKEN"
    out.print(f"promise {kept}: largest relative error {report['max_rel_error']:.3g}")
    out.print(f"equal to the bit on all ranks: {'yes' if report['equal_on_all_ranks'] else 'NO'}")
    out.print(f"beside torch.distributed: {_beside(report)}")
    if report["model"]:
        out.print(report["model"]["badge"], style="dim")


def _beside(report: dict[str, Any]) -> str:
    apart = report["max_rel_error_to_torch"]
    if apart is not None:
        return f"largest relative difference {apart:.3g}"
    called = "torch" in report["seconds"]
    return "its barrier hands over nothing to compare" if called else "it has no such call on gloo"


def _ledger(report: dict[str, Any]) -> Table:
    table = Table("", "predicted", "measured", "", title="what moved")
    messages, sent = report["messages"], report["bytes_sent"]
    _row(table, "messages", messages["predicted"], messages["measured"], str)
    pairs = list(zip(sent["predicted"], sent["measured"], strict=True))
    if len(pairs) <= MANY:
        for rank, pair in enumerate(pairs):
            _row(table, f"bytes sent by rank {rank}", *pair, bytes_text)
    else:
        for name, pick in (("least", min), ("most", max)):
            _row(table, f"bytes sent, {name} of a rank", *map(pick, zip(*pairs, strict=True)))
    for rank, size in enumerate(report.get("bytes_read", {}).get("predicted", [])[:MANY]):
        table.add_row(f"bytes rank {rank} reads of others'", bytes_text(size), "not counted", "")
    return table


def _row(table: Table, name: str, predicted: int, measured: int, say: Any = bytes_text) -> None:
    agree = "=" if predicted == measured else f"{measured - predicted:+,}"
    table.add_row(name, say(predicted), say(measured), agree)


def _times(report: dict[str, Any]) -> Table:
    table = Table("", "median time", "algorithm bandwidth", "bus bandwidth", title="how fast")
    if model := report["model"]:
        table.add_row("predicted", time_text(model["seconds"] * 1e9), *_rates(model["bandwidth"]))
    names = {"ours": "ours", "torch": "torch.distributed"}
    for who, seconds in report["seconds"].items():
        rates = report["bandwidth"][who]
        table.add_row(names[who], time_text(seconds * 1e9), *_rates(rates))
    return table


def _rates(rates: dict[str, float]) -> list[str]:
    if not rates:
        return ["", ""]
    return [f"{rates[key]:.3g} GB/s" for key in ("algorithm_gb_s", "bus_gb_s")]


def _simulated(out: Console, report: dict[str, Any]) -> None:
    table = Table("", "predicted", title="simulated")
    table.add_row("time", time_text(report["seconds"] * 1e9))
    table.add_row("steps", f"{report['steps']:,}")
    table.add_row("messages", f"{report['messages']:,}")
    table.add_row("bytes the busiest rank sends", bytes_text(report["bytes_sent_busiest_rank"]))
    if report["bandwidth"]:
        algorithm, bus = _rates(report["bandwidth"])
        table.add_row("algorithm bandwidth", algorithm)
        table.add_row("bus bandwidth", bus)
    place = report["topology"]
    if place:
        busiest = place["busiest_link"]
        cut = f"{place['bisection_links']} links, {place['bisection_gb_s']:,.4g} GB/s"
        table.add_row(f"bisection of {place['text']}", cut)
        table.add_row("diameter", f"{place['diameter']} links")
        table.add_row(
            f"busiest link, {busiest['name']}",
            f"{bytes_text(busiest['bytes'])}, busy {busiest['busy_share']:.0%} of the time",
        )
    out.print(table)
    if report["folded"]:
        out.print("all ranks do the same, so one was simulated for all")

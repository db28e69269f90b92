"""A memory forecast (memory_forecast.py) as a terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def show(found: Mapping[str, Any]) -> None:
    """Ranks, then one unit of each kind, then what is not counted."""
    out = Console()
    out.print(_ranks(found))
    for row in found["ranks"]:
        out.print(_in_words(row, found["device"]["bytes"]), style="dim")
    for name, unit in found["units"].items():
        if "classic" in unit:
            out.print(_layer(name, unit))
            out.print(_formulas(unit), style="dim")
        else:
            parts = ", ".join(f"{row} {size_text(size)}" for row, size in unit["rows"].items())
            out.print(f"{name} keeps {size_text(unit['bytes'])}" + (f": {parts}" if parts else ""))
    out.print("not counted:", style="dim")
    for text in found["not_counted"]:
        out.print(f"  {text}", style="dim")


def _ranks(found: Mapping[str, Any]) -> Table:
    plan, device, kinds = found["plan"], found["device"], ("params", "grads", "optimizer")
    title = (
        f"{_count(found['params'])} parameters in {plan['dtype']}, {found['layout']};"
        f" {device['name'] or 'device'} of {size_text(device['bytes'])}"
    )
    columns = ("rank", "weights", "gradients", "optimizer", "activations", "at most", "fits")
    table = Table(*columns, title=title)
    for row in found["ranks"]:
        held = [_between(row["resident"][kind], row["peak"][kind]) for kind in kinds]
        held += [size_text(row["peak"]["activations"]), size_text(row["total_at_peak"])]
        many = f" of {row['ranks']:,}" if row["ranks"] > 1 else ""
        table.add_row(row["who"] + many, *held, "yes" if row["fits"] else "no")
    return table


def _count(params: int) -> str:
    return f"{params / 1e9:,.4g} B" if params >= 1e8 else f"{params / 1e6:,.4g} M"


def _between(resident: float, peak: float) -> str:
    """What stays, and the most if that is more."""
    held, most = size_text(resident), size_text(peak)
    return held if held == most else f"{held} to {most}"


def _in_words(row: Mapping[str, Any], room: float) -> str:
    kept, flight = row["activations_per_microbatch"], row["microbatches_in_flight"]
    words = f"{row['who']}: {size_text(kept)} of activations a microbatch, {flight:.3g} in flight"
    if row["host_per_microbatch"]:
        words += f", {size_text(row['host_per_microbatch'])} of it on the host"
    return f"{words}; {row['total_at_peak'] / room:.1%} of the device"


def _layer(name: str, unit: Mapping[str, Any]) -> Table:
    """Row by row: here, in the classic count, and why they differ."""
    again = unit["recompute"]
    how = "" if again == "none" else f", {again} recomputation"
    title = f"{name} and its like ({unit['units']}){how}: kept of one microbatch"
    table = Table("kept", "here", "classic", "difference", "why", title=title)
    ours, classic = unit["rows"], unit["classic"]["rows"]
    whys = {d["row"]: d["why"] for d in unit["classic"]["differences"]}
    for row in dict.fromkeys((*ours, *classic)):
        here, there = ours.get(row, 0), classic.get(row, 0)
        table.add_row(row, size_text(here), size_text(there), _more(here - there), whys.get(row))
    total, book = unit["bytes"], unit["classic"]["bytes"]
    table.add_section()
    table.add_row("in all", size_text(total), size_text(book), _more(total - book))
    return table


def _formulas(unit: Mapping[str, Any]) -> str:
    here = f"here {unit['formula']['text']}; " if "formula" in unit else ""
    words = f"{here}classic {unit['classic']['text']}"
    if unit["again_bytes"]:
        words += f"; a backward makes {size_text(unit['again_bytes'])} again while it runs"
    return words


def _more(size: float) -> str:
    return "" if size == 0 else f"{'+' if size > 0 else '-'}{size_text(abs(size))}"


def size_text(size: float) -> str:
    """Decimal units, as device makers and the papers count.

    >>> size_text(106_954_752), size_text(0)
    ('107 MB', '0 B')
    """
    for unit, worth in _UNITS:
        if size >= worth:
            digits = 0 if size >= 100 * worth else 1 if size >= 10 * worth else 2
            return f"{size / worth:,.{digits}f} {unit}"
    return f"{size:.0f} B"

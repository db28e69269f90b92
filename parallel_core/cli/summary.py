"""What a terminal shows of a run: the bar while it goes, the tables when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from parallel_core.quantities import bytes_text
from parallel_core.report import RunView
from parallel_core.views.equality import verdict

console = Console(stderr=True)
Advance = Callable[[RunView], None]


@contextmanager
def progress_bar(steps: int, title: str) -> Iterator[Advance]:
    """A bar on stderr that follows a RunView."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"{title}: starting", total=max(steps, 1), loss="")

        def advance(view: RunView) -> None:
            loss = f"loss {view.metrics[-1]['loss']:.4f}" if view.metrics else ""
            words = f"{title}: {view.status}"
            bar.update(task, completed=len(view.metrics), loss=loss, description=words)

        yield advance


def print_summary(view: RunView, report: dict[str, Any]) -> None:
    """The run in three short tables on stdout."""
    out = Console()
    out.print(_steps(report))
    out.print(_ledger(report))
    if view.trace.spans:
        wall, own = view.trace.makespan / 1e6, view.own_device().makespan / 1e6
        out.print(f"wall clock {wall:,.0f} ms; one device a rank (replayed) {own:,.0f} ms")
    parity = report["parity"]
    if parity:
        out.print(
            f"max |parallel - single| = {parity['max_abs_error']:.3g} over {parity['tensors']}"
            f" gradients; relative error {parity['max_rel_error']:.3g}"
            f" ({', '.join(parity['counted'])})"
        )
        said = verdict(parity, report["layout"]["dtype"])
        out.print(said.sentence, style="" if said.equal else "bold red")
    for sentence in _experts(report):
        out.print(sentence)
    for sentence in _unlike(report):
        out.print(sentence, style="bold")
    stale = report.get("staleness")
    if stale:
        ages = ", ".join("-" if age is None else f"{age:.2g}" for age in stale["by_worker"])
        wanted = stale["expected_mean"]  # a bound leaves none
        theory = "" if wanted is None else f" (W-1 = {wanted:g})"
        out.print(
            f"a gradient is {stale['mean']:.2f} versions old on average{theory}; by worker {ages}"
        )
    out.print(report["provenance"]["badge"], style="dim")


def _experts(report: dict[str, Any]) -> list[str]:
    """How even the experts' loads were, and how many choices found no room."""
    found = report.get("experts")
    if not found or not found["steps"]:
        return []
    first, last = found["steps"][0], found["steps"][-1]

    def drift(name: str) -> str:
        return f"{first[name]:.2f} in the first step, {last[name]:.2f} in the last"

    even = f"fullest expert over the mean: {drift('imbalance')}"
    if len(found["steps"][0]["rank_loads"][0]) > 1:
        even += f"; fullest rank: {drift('rank_imbalance')}"
    lost = sum(step["dropped"] for step in found["steps"])
    asked = sum(step["asked"] for step in found["steps"])
    share = f" ({lost / asked:.1%})" if asked else ""
    return [even, f"dropped: {lost:,} of {asked:,} choices{share}"]


def _unlike(report: dict[str, Any]) -> list[str]:
    """What differs though it should not: weights that ranks hold alike, bytes at any moment."""
    held, outline = report.get("replicas") or {}, report.get("outline") or {}
    found = [str(held["first_difference"])] if held.get("first_difference") else []
    return found + [
        f"memory is not as predicted: {one}" for one in outline.get("differences", [])[:1]
    ]


def _steps(report: dict[str, Any]) -> Table:
    table = Table("step", "loss", "gradient norm", "tokens/s", title="training")
    steps = report["steps"]
    shown = steps if len(steps) <= 8 else [*steps[:3], None, *steps[-3:]]
    for row in shown:
        if row is None:
            table.add_row("...", "", "", "")
            continue
        table.add_row(
            str(row["step"]),
            f"{row['loss']:.4f}",
            f"{row['grad_norm']:.4f}",
            f"{row['tokens_per_s']:,.0f}",
        )
    return table


def _ledger(report: dict[str, Any]) -> Table:
    table = Table("bytes", "predicted", "measured", "", title="ledger")
    wire, memory = report["ledger"]["wire"], report["ledger"]["memory"]
    none = {"wire_bytes": 0}
    sides = (wire["predicted"], wire["measured"])
    for axis, op in sorted({(a, o) for side in sides for a, ops in side.items() for o in ops}):
        want, got = (side.get(axis, {}).get(op, none) for side in sides)
        totals = (want["wire_bytes"], got["wire_bytes"])
        if op == "recv" and want == got:
            continue  # the other end of what was sent
        table.add_row(f"wire {axis} {op}, all ranks", *_compared(totals, equal=want == got))
    for kind, each in memory["predicted"].items():
        counted = memory["measured"][kind]
        cells = _compared((max(each), max(counted)), equal=each == counted)
        table.add_row(f"{kind}, fullest rank", *cells)
    copies = memory["weight_copies"]
    want, got = copies["predicted"], copies["measured"]
    if max(*want, *got) > 1:
        agree = "=" if want == got else "not on every rank"
        table.add_row("versions of the weights, most", str(max(want)), str(max(got)), agree)
    kept = report["ledger"]["activations"]
    want, got = kept["predicted"], kept["measured"]
    cells = _compared((sum(want.values()), sum(got.values())), equal=want == got)
    table.add_row("activations kept", *cells)
    return table


def _compared(shown: tuple[int, int], *, equal: bool) -> tuple[str, str, str]:
    """Predicted, measured, and how they compare; `equal` says it of every rank, not of these."""
    predicted, measured = shown
    agree = "=" if equal else f"{measured - predicted:+,} B"
    if not equal and predicted == measured:
        agree = "not on every rank"
    return bytes_text(predicted), bytes_text(measured), agree

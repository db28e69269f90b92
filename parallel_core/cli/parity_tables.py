"""The parity matrix in a terminal: a line a way, a line a pair of kinds, a line a deep layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from shlex import quote

from rich.console import Console
from rich.table import Table

from parallel_core.parity.axes import KINDS
from parallel_core.parity.first import TOLERANCE
from parallel_core.parity.matrix import Cell
from parallel_core.parity.sweep import Outcome, State


def show(outcomes: Sequence[Outcome]) -> None:
    """Everything that was found, the bad news last."""
    out = Console(highlight=False)
    if len(outcomes) == 1 and outcomes[0].tensors:
        _show_tensors(out, outcomes[0])
    elif outcomes:
        _show_sections(out, outcomes)
    for outcome in (each for each in outcomes if each.state.red):
        out.print(f"\n{outcome.cell.name}: {outcome.state}", style="bold", markup=False)
        out.print(f"  {outcome.message}", markup=False, soft_wrap=True)
        again = f"  shardlab parity --layout {quote(outcome.cell.layout)}"
        out.print(again, markup=False, soft_wrap=True, style="dim")
    out.print(in_words(outcomes), style="bold", soft_wrap=True)


def in_words(outcomes: Sequence[Outcome]) -> str:
    """The whole matrix in one sentence."""
    ran = [each for each in outcomes if each.state is not State.REFUSED]
    red = sum(each.state.red for each in ran)
    equal = [each for each in ran if each.state is State.EQUAL]
    refused = len(outcomes) - len(ran)
    if not ran:
        return f"nothing was compared: {refused} layouts cannot be run"
    said = f"{len(equal)} of {len(ran)} layouts equal one process"
    if equal:
        worst = max(each.worst for each in equal)
        said += f", largest error {worst:.1e} (tolerance {TOLERANCE:g})"
    if refused:
        said += f"; {refused} cannot be run"
    return said + (f"; {red} OFF" if red else "") + f"; {sum(e.seconds for e in ran):.0f} s"


def _show_sections(out: Console, outcomes: Sequence[Outcome]) -> None:
    for section, group in groupby(outcomes, key=lambda each: each.cell.section):
        here = list(group)
        table = Table("layout", "ranks", "loss", "norm", "gradients", "parameters", "s")
        table.title = section
        if section == "pairs" and len(here) > 40:
            _pairs(out, here)
            continue
        for each in (e for e in here if e.state is not State.REFUSED):
            plan, told = each.cell.plan, each.errors
            numbers = [f"{e:.0e}" for e in told.values()] or [str(each.state), "", "", ""]
            style = "bold red" if each.state.red else ""
            ranks = "" if plan is None else str(plan.world_size)
            name = each.cell.name + (f" ({each.cell.changed})" if each.cell.changed else "")
            table.add_row(name, ranks, *numbers, f"{each.seconds:.1f}", style=style)
        if table.row_count:
            out.print(table)
    _refused(out, [(e.message, e.cell.name) for e in outcomes if e.state is State.REFUSED])


def _pairs(out: Console, outcomes: Sequence[Outcome]) -> None:
    """A line for every two kinds: how many layouts, how many equal, and the worst error."""
    table = Table("pair", "layouts", "equal", "refused", "off", "worst", title="pairs")
    found: dict[tuple[str, ...], list[Outcome]] = {}
    for each in outcomes:
        found.setdefault(each.cell.kinds, []).append(each)
    for kinds, here in found.items():
        counts = [sum(e.state is state for e in here) for state in (State.EQUAL, State.REFUSED)]
        red = sum(e.state.red for e in here)
        ran = [e.worst for e in here if e.errors]
        names = " x ".join(KINDS[kind] for kind in kinds)
        row = (str(len(here)), *map(str, counts), str(red), f"{max(ran):.0e}" if ran else "")
        table.add_row(names, *row, style="bold red" if red else "")
    out.print(table)


def _refused(out: Console, found: Iterable[tuple[str, str]]) -> None:
    """What cannot be run, by reason; of each its reason and name."""
    reasons: dict[str, list[str]] = {}
    for reason, name in found:
        reasons.setdefault(reason, []).append(name)
    if reasons:
        out.print("not run:", style="dim")
    for reason, names in reasons.items():
        out.print(f"  {reason}:", markup=False, style="dim", soft_wrap=True)
        out.print(f"    {'; '.join(names)}", markup=False, style="dim", soft_wrap=True)


def _show_tensors(out: Console, outcome: Outcome) -> None:
    """One layout: every tensor's errors."""
    plan = outcome.cell.plan
    assert plan is not None
    title = f"{plan.layout}, {plan.world_size} ranks"
    table = Table("tensor", "gradient", "parameter", title=title)
    for name, told in outcome.tensors.items():
        red = max(told.values()) > TOLERANCE
        numbers = [f"{told[kind]:.1e}" for kind in ("gradient", "parameter")]
        table.add_row(name, *numbers, style="bold red" if red else "")
    out.print(table)
    if outcome.cell.changed:
        out.print(f"with {outcome.cell.changed}, which this layout asks for")
    for name in ("loss", "gradient norm"):
        out.print(f"{name}: {outcome.errors[name]:.1e}")


def show_list(cells: Sequence[Cell]) -> None:
    """The layouts by name, and what cannot be run."""
    out = Console(highlight=False)
    for section, group in groupby((c for c in cells if c.plan), key=lambda cell: cell.section):
        out.print(f"{section}:", style="bold")
        for cell in group:
            out.print(f"  {cell.name}   {cell.layout}", markup=False, soft_wrap=True)
    _refused(out, [(cell.refused, cell.name) for cell in cells if cell.plan is None])
    able = sum(cell.plan is not None for cell in cells)
    out.print(f"{able} layouts; {len(cells) - able} cannot be run", style="bold")

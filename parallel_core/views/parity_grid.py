"""The parity matrix as a table: a row and a column a way, a cell the layout of both.

    =   equals one process        !   is off, or broke        -   cannot be run        .   not run

The diagonal is each way alone; the upper half would say the same again. Layouts of three and more
kinds, and ways that only run alone, stand below, a cell each. Every cell is a button that carries
its layout's name.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parallel_core.views.frame import PAGES, ink
from parallel_core.views.palette import PHASES, contrast, mix

SIGNS = {"equal": "=", "off": "!", "broken": "!", "refused": "–", "unrun": "·"}
"""What stands in a cell, by its state."""

WORDS = {
    "equal": "equals one process",
    "off": "is off",
    "broken": "did not come to its end",
    "refused": "cannot be run",
    "unrun": "not run yet",
}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One cell: its layout's name, its state (a key of SIGNS), and what more there is to say."""

    name: str
    state: str = "unrun"
    says: str = ""

    @property
    def words(self) -> str:
        """The cell as a screen reader says it."""
        return f"{self.name}: {WORDS[self.state]}" + (f", {self.says}" if self.says else "")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is drawn. `ways` are (kind, way) in order; `pairs` has the mark of (row, column), the
    diagonal those alone; `strips` are further marks under a heading each."""

    ways: Sequence[tuple[str, str]]
    pairs: Mapping[tuple[int, int], Mark]
    strips: Mapping[str, Sequence[Mark]]
    picked: str = ""
    dark: bool = False


def drawing(grid: Grid) -> str:
    """The table and the strips, with their style."""
    strips = "".join(_strip(grid, name, marks) for name, marks in grid.strips.items())
    return f"{_sheet(grid.dark)}<div class='matrix'>{_table(grid)}{strips}{_legend()}</div>"


def _table(grid: Grid) -> str:
    heads = []
    for column, (kind, way) in enumerate(grid.ways):
        new = " class='new'" if column and grid.ways[column - 1][0] != kind else ""
        heads.append(f"<th scope='col'{new}><span>{html.escape(way)}</span></th>")
    rows = []
    for row, (kind, way) in enumerate(grid.ways):
        first = row == 0 or grid.ways[row - 1][0] != kind
        cells = "".join(_place(grid, row, column) for column in range(row + 1))
        title = f"<small>{html.escape(kind)}</small>" if first else ""
        name = f"<th scope='row'>{title}{html.escape(way)}</th>"
        rows.append(f"<tr{' class=new' if first and row else ''}>{name}{cells}</tr>")
    return (
        "<div class='scroll' role='region' tabindex='0' aria-label='Every two ways together'>"
        f"<table><thead><tr><td></td>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _place(grid: Grid, row: int, column: int) -> str:
    kinds = [grid.ways[at][0] for at in (row, column)]
    new = " class='new'" if column and grid.ways[column - 1][0] != kinds[1] else ""
    mark = grid.pairs.get((row, column))
    return f"<td{new}>{_button(grid, mark) if mark else ''}</td>"


def _button(grid: Grid, mark: Mark) -> str:
    here = " aria-current='true'" if mark.name == grid.picked else ""
    name, words = html.escape(mark.name, quote=True), html.escape(mark.words, quote=True)
    return (
        f"<button type='button' class='{mark.state}' data-cell='{name}' tabindex='-1'{here}"
        f" aria-label='{words}' title='{words}'>{SIGNS[mark.state]}</button>"
    )


def _strip(grid: Grid, name: str, marks: Sequence[Mark]) -> str:
    cells = "".join(_button(grid, mark) for mark in marks)
    return f"<h3>{html.escape(name)}</h3><div class='strip'>{cells}</div>"


def _legend() -> str:
    once = {"equal": "equals one process", "off": "is off", "refused": "cannot be run"}
    once["unrun"] = "not run yet"
    said = "".join(
        f"<span><i class='{state}'>{SIGNS[state]}</i> {words}</span>"
        for state, words in once.items()
    )
    return f"<p class='legend'>{said}</p>"


def in_words(grid: Grid) -> str:
    """The matrix in a sentence, and what is off by name."""
    every = [*grid.pairs.values(), *(mark for marks in grid.strips.values() for mark in marks)]
    counts = {state: sum(mark.state == state for mark in every) for state in SIGNS}
    red = [mark.words for mark in every if mark.state in ("off", "broken")]
    said = (
        f"{len(every)} layouts: {counts['equal']} equal one process, {counts['refused']} cannot be"
        f" run, {counts['unrun']} have not been run, {len(red)} are off."
    )
    return said + "".join(f" {words}." for words in red)


def _sheet(dark: bool) -> str:
    letters, page = ink(dark), PAGES[dark]
    good = PHASES["collective"].dark if dark else PHASES["collective"].light
    bad = PHASES["B"].dark if dark else PHASES["B"].light
    good = mix(good, page, 0.55)
    on = {f: max(("#000000", "#FFFFFF"), key=lambda c: contrast(c, f)) for f in (good, bad)}
    faint = mix(letters, page, 0.14)
    return (
        "<style>.matrix { font-size: 12px; } .matrix .scroll { overflow-x: auto; }"
        f".matrix, .matrix th, .matrix h3 {{ color: {letters}; }}"
        ".matrix table { border-collapse: collapse; margin: 0; }"
        ".matrix td, .matrix th { padding: 1px; border: 0; font-weight: 400; }"
        f".matrix tbody th {{ text-align: right; padding-right: 6px; white-space: nowrap;"
        f" position: sticky; left: 0; background: {page}; }}"
        ".matrix small { display: block; opacity: .85; font-size: 10.5px; }"
        ".matrix tbody th { line-height: 1; }"
        ".matrix thead th { height: 84px; vertical-align: bottom; }"
        ".matrix thead span { writing-mode: vertical-rl; transform: rotate(180deg); }"
        f".matrix tr.new > * {{ border-top: 1px solid {mix(letters, page, 0.4)}; }}"
        f".matrix .new:is(td, th) {{ border-left: 1px solid {mix(letters, page, 0.4)}; }}"
        ".matrix button, .matrix i { width: 24px; height: 24px; padding: 0; border-radius: 3px;"
        f" font: 700 14px/1 inherit; cursor: pointer; color: {letters}; background: none;"
        " border: 1px solid transparent; font-style: normal; display: inline-block;"
        " text-align: center; box-sizing: border-box; }"
        ".matrix i { line-height: 22px; }"
        f".matrix .equal {{ background: {good}; color: {on[good]}; }}"
        f".matrix .off, .matrix .broken {{ background: {bad}; color: {on[bad]};"
        f" border: 2px solid {letters}; }}"
        f".matrix .refused {{ border: 1px dashed {letters}; }}"
        f".matrix .unrun {{ background: {faint}; }}"
        f".matrix button[aria-current] {{ position: relative; z-index: 1;"
        f" box-shadow: 0 0 0 2px {page}, 0 0 0 4px {letters}; }}"
        ".matrix :focus-visible { outline: 3px solid #1f77d0; outline-offset: 1px; }"
        ".matrix h3 { font-size: 12px; margin: 10px 0 3px; font-weight: 600; padding: 0; }"
        ".matrix .strip { display: flex; flex-wrap: wrap; gap: 2px; }"
        ".matrix .legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 12px 0 0; }"
        "</style>"
    )


SCRIPT = """
/* The ShardLab parity grid: a press on a cell names its layout; arrow keys go from cell to cell.
   Cells are one stop of the Tab key. */
export default function ({ parentElement, data, setTriggerValue }) {
  const root = parentElement.querySelector("#matrix");
  const given = typeof data === "string" ? data : new TextDecoder().decode(data);
  const focused = root.contains(document.activeElement) || parentElement.activeElement
    ? (parentElement.activeElement || document.activeElement).dataset?.cell : undefined;
  if (root.dataset.given !== given) {
    root.innerHTML = given;
    root.dataset.given = given;
  }
  const cells = [...root.querySelectorAll("button")];
  const stop = (cell) => cells.forEach((each) => { each.tabIndex = each === cell ? 0 : -1; });
  const again = cells.find((each) => each.dataset.cell === focused);
  stop(again || cells.find((each) => each.hasAttribute("aria-current")) || cells[0]);
  if (again) again.focus({ preventScroll: true });
  const near = (from, dx, dy) => {
    const a = from.getBoundingClientRect();
    let best = null, least = Infinity;
    for (const cell of cells) {
      const b = cell.getBoundingClientRect();
      const x = b.x - a.x, y = b.y - a.y;
      if (x * dx + y * dy < 4) continue;
      const far = Math.abs(x * dx + y * dy) + 4 * Math.abs(x * dy + y * dx);
      if (far < least) { least = far; best = cell; }
    }
    return best;
  };
  const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
  root.onkeydown = (event) => {
    const here = event.target.closest("button");
    if (!here || !(event.key in ways)) return;
    event.preventDefault();
    const next = near(here, ...ways[event.key]);
    if (next) { stop(next); next.focus(); }
  };
  root.onclick = (event) => {
    const cell = event.target.closest("button");
    if (cell) { stop(cell); setTriggerValue("picked", cell.dataset.cell); }
  };
}
"""
"""What makes the cells answer."""

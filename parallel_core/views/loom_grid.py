"""One matrix of the tensor loom as an HTML table: its blocks, its numbers, its layout below.

    cut         the global matrix, a border and a tint round every rank's block
    whole       stacked cards and how many
    parts       a card a rank, sigma in the corner, joined by plus signs
    copies      that should be the same and are not: a card a rank, each marked so

A number is text in a cell, so it can be read aloud. What a rank holds carries the class r<rank>:
the sheet (loom_sheet.py) fills the blocks of the rank that is pointed at or chosen, and leaves the
others outlined.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from parallel_core.loom.layout import ROWS, Layout
from parallel_core.loom.matrix import Matrix, assembled

MOST_CELLS = 256
"""Numbers of a matrix that are drawn; of a larger one the blocks."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A matrix to be drawn: `parts` by rank, or None where only its `shape` is known.

    `truth` is what one process has: cells that differ are marked. `cell` is framed.
    """

    layout: Layout
    shape: tuple[int, int]
    ranks: int
    parts: Sequence[Matrix] | None = None
    truth: Matrix | None = None
    cell: tuple[int, int] | None = None

    @property
    def numbers(self) -> bool:
        """Whether its numbers are drawn."""
        return self.parts is not None and self.shape[0] * self.shape[1] <= MOST_CELLS


def number_text(x: float) -> str:
    """A small number: integers as they are, others with two digits.

    >>> number_text(-3.0), number_text(0.125), number_text(0)
    ('\u22123', '0.13', '0')
    """
    text = f"{x:.0f}" if math.isfinite(x) and x == int(x) else f"{x:.2f}"
    return ("0" if text in ("-0", "-0.00") else text).replace("-", "\u2212")


def copies_differ(parts: Sequence[Matrix] | None, layout: Layout) -> bool:
    """Whether ranks that should all hold the same matrix do not."""
    return layout.whole and parts is not None and any(part != parts[0] for part in parts)


def card(picture: Picture) -> str:
    """The matrix with its layout below, as one `<figure>`."""
    layout, parts = picture.layout, picture.parts
    if layout.partial or copies_differ(parts, layout):
        every: Sequence[Matrix | None] = parts or [None] * picture.ranks
        cards = [_table(picture, part, rank=rank) for rank, part in enumerate(every)]
        body = '<span class="sign">+</span>'.join(cards) if layout.partial else "".join(cards)
    elif picture.numbers and parts is not None:
        body = _table(picture, assembled(parts, layout))
    else:
        body = _table(picture, None)
    said = html.escape(str(layout))
    below = f"<figcaption><code>{said}</code></figcaption>"
    return f'<figure><div class="cards">{body}</div>{below}</figure>'


def _table(picture: Picture, matrix: Matrix | None, rank: int | None = None) -> str:
    """A table; `rank` is that of a part of a sum."""
    layout, ranks = picture.layout, picture.ranks
    if not picture.numbers or matrix is None:
        body = _blocks(picture, rank)
    else:
        body = "".join(
            f"<tr>{''.join(_cell(picture, matrix, at, rank) for at in _row(matrix, i))}</tr>"
            for i in range(len(matrix))
        )
    holder = f"rank {rank}" if rank is not None else _holder(layout, ranks)
    table = (
        f'<table aria-label="{html.escape(f"{layout}, {holder}")}"><tbody>{body}</tbody></table>'
    )
    if rank is not None:
        sign = "Σ" if layout.partial else "≠"
        return f'<div><span class="tag">{sign} r{rank}</span>{table}</div>'
    if layout.whole:
        return f'<div><span class="tag">× {ranks}</span><div class="stack">{table}</div></div>'
    return f'<div><span class="tag">{_order(layout, ranks)}</span>{table}</div>'


def _row(matrix: Matrix, i: int) -> list[tuple[int, int]]:
    return [(i, j) for j in range(len(matrix[i]))]


def _cell(picture: Picture, matrix: Matrix, at: tuple[int, int], rank: int | None) -> str:
    i, j = at
    rows, columns = len(matrix), len(matrix[0])
    owner, sides = _owner(picture, at, (rows, columns), rank)
    names = [*owner, *sides]
    title = ""
    if picture.cell == at:
        names.append("cell")
    if picture.truth is not None and abs(picture.truth[i][j] - matrix[i][j]) > 1e-9:
        names.append("off")
        title = f' title="one process has {number_text(picture.truth[i][j])}"'
    return f'<td class="{" ".join(names)}"{title}>{number_text(matrix[i][j])}</td>'


def _owner(
    picture: Picture, at: tuple[int, int], shape: tuple[int, int], rank: int | None
) -> tuple[list[str], list[str]]:
    """The classes of the ranks that hold a cell, and on which sides their block ends there."""
    layout, n = picture.layout, picture.ranks
    if rank is not None:
        box = [(at[d] == 0, at[d] == shape[d] - 1) for d in (0, 1)]
        return [f"r{rank}"], _sides(box)
    if layout.cut is None:
        return [f"r{r}" for r in range(n)] + ["whole"], []
    each = shape[layout.cut] // n
    box = [(at[d] == 0, at[d] == shape[d] - 1) for d in (0, 1)]
    inside = at[layout.cut] % each
    box[layout.cut] = (inside == 0, inside == each - 1)
    return [f"r{at[layout.cut] // each}"], _sides(box)


def _sides(box: list[tuple[bool, bool]]) -> list[str]:
    names = zip(("top", "bottom", "left", "right"), (*box[0], *box[1]), strict=True)
    return [name for name, there in names if there]


def _blocks(picture: Picture, rank: int | None) -> str:
    """A matrix too large for its numbers: a cell a block, with its size."""
    layout, n = picture.layout, picture.ranks
    rows, columns = picture.shape
    edge = "top bottom left right"
    if rank is not None:
        return f'<tr><td class="big r{rank} {edge}">{rows} × {columns}</td></tr>'
    if layout.cut is None:
        every = " ".join(f"r{r}" for r in range(n))
        return f'<tr><td class="big whole {every}">{rows} × {columns}</td></tr>'
    if layout.cut == ROWS:
        cells = [f'<td class="big r{r} {edge}">{rows // n} × {columns}</td>' for r in range(n)]
        return "".join(f"<tr>{cell}</tr>" for cell in cells)
    cells = [f'<td class="big r{r} {edge}">{rows} × {columns // n}</td>' for r in range(n)]
    return f"<tr>{''.join(cells)}</tr>"


def _holder(layout: Layout, ranks: int) -> str:
    if layout.whole:
        return f"the same on {ranks} ranks"
    return f"a block of {('rows', 'columns')[layout.cut or 0]} on each of {ranks} ranks"


def _order(layout: Layout, ranks: int) -> str:
    return f"r0 … r{ranks - 1}, {'down' if layout.cut == ROWS else 'across'}"

"""Matrices as lists of rows: products, blocks, and what ranks hold of them."""

from __future__ import annotations

from collections.abc import Sequence

from parallel_core.loom.layout import COLUMNS, ROWS, Layout

Matrix = list[list[float]]


def multiply(a: Matrix, b: Matrix) -> Matrix:
    """a @ b."""
    columns = list(zip(*b, strict=True))
    return [[sum(map(times, row, column)) for column in columns] for row in a]


def turned(a: Matrix) -> Matrix:
    """The transpose of a."""
    return [list(column) for column in zip(*a, strict=True)]


def block(a: Matrix, dim: int, at: int, of: int) -> Matrix:
    """The `at`-th of `of` equal blocks along `dim`."""
    if dim == COLUMNS:
        return turned(block(turned(a), ROWS, at, of))
    each = len(a) // of
    return a[at * each : (at + 1) * each]


def joined(blocks: Sequence[Matrix], dim: int) -> Matrix:
    """Blocks put together along `dim`."""
    if dim == COLUMNS:
        return turned(joined([turned(each) for each in blocks], ROWS))
    return [row for each in blocks for row in each]


def added(parts: Sequence[Matrix]) -> Matrix:
    """The sum of matrices of one shape."""
    return [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*parts, strict=True)]


def part_of(whole: Matrix, layout: Layout, rank: int, ranks: int) -> Matrix:
    """What one rank holds of a matrix in this layout."""
    return whole if layout.cut is None else block(whole, layout.cut, rank, ranks)


def assembled(parts: Sequence[Matrix], layout: Layout) -> Matrix:
    """The global matrix from what the ranks hold of it; parts of a sum are added."""
    if layout.partial:
        return added(parts)
    return parts[0] if layout.cut is None else joined(parts, layout.cut)


def times(a: float, b: float) -> float:
    """a b."""
    return a * b

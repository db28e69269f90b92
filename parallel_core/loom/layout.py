"""What a matrix looks like on tp ranks, and what is done to that by products and messages.

    X[n,k]      whole: the same on every rank        X[n/tp,k]   cut by rows, a block a rank
    Z[n,d]+tp   a part of a sum on every rank        X[n,k/tp]   cut by columns

    product     rows of the left, columns of the right; a cut there is a cut of the result
                [n,k/tp] @ [k/tp,m] -> [n,m]+tp: the inner dim, cut on both, leaves parts of a sum
    nonlinear   not of parts: gelu(a + b) is not gelu(a) + gelu(b)
    message     +tp -> whole  all_reduce             +tp -> rows/tp       reduce_scatter
                /tp -> whole  all_gather             rows/tp <-> cols/tp  all_to_all
                whole -> /tp  none: a rank takes its own block

The order of a tensor-parallel MLP follows from these. Shoeybi et al. 2019, arXiv:1909.08053,
section 3; the notation is that of the JAX scaling book, 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from parallel_core.program import Op, ProgramError

AXIS = "tp"
ROWS, COLUMNS = 0, 1


@dataclass(frozen=True)
class Layout:
    """A matrix `name[dims]`; `cut` is the dim that is divided over tp (None: neither).

    >>> str(Layout("Y", ("n", "m"), COLUMNS)), str(Layout("Z", ("n", "d"), partial=True))
    ('Y[n,m/tp]', 'Z[n,d]+tp')
    """

    name: str
    dims: tuple[str, str]
    cut: int | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        assert not (self.partial and self.cut is not None), f"{self}: one axis does one thing"

    def __str__(self) -> str:
        said = [f"{d}/{AXIS}" if at == self.cut else d for at, d in enumerate(self.dims)]
        return f"{self.name}[{','.join(said)}]" + (f"+{AXIS}" if self.partial else "")

    @property
    def whole(self) -> bool:
        """Whether every rank has all of it."""
        return self.cut is None and not self.partial

    @property
    def turned(self) -> Layout:
        """The transpose: `W[k,m/tp]` -> `W'[m/tp,k]`."""
        cut = None if self.cut is None else 1 - self.cut
        return Layout(f"{self.name}'", (self.dims[1], self.dims[0]), cut, self.partial)

    @property
    def gradient(self) -> Layout:
        """How its gradient must lie; that of a part of a sum is the whole sum's."""
        return Layout(f"d{self.name}", self.dims, self.cut)

    def cut_by(self, dim: int | None) -> Layout:
        """The same matrix cut by this dim, or whole."""
        return replace(self, cut=dim, partial=False)

    def shape(self, sizes: Mapping[str, int], ranks: int) -> tuple[int, int]:
        """Rows and columns of what one rank holds, where `sizes` gives every letter's."""
        each = [sizes[d] // (ranks if at == self.cut else 1) for at, d in enumerate(self.dims)]
        return each[0], each[1]


def product(a: Layout, b: Layout, name: str) -> Layout:
    """The layout of a @ b, each rank multiplying what it has; ProgramError where it cannot."""
    said = f"{a} @ {b}"
    if a.dims[1] != b.dims[0]:
        raise ProgramError(f"{said}: {a.dims[1]} does not meet {b.dims[0]}; turn one of them round")
    if a.partial or b.partial:
        raise ProgramError(f"{said} multiplies parts of a sum: sum them over {AXIS} first")
    if (a.cut == COLUMNS) != (b.cut == ROWS):
        raise ProgramError(f"{said} sums over {a.dims[1]}, which one side alone has cut: cut both")
    dims = (a.dims[0], b.dims[1])
    if a.cut == COLUMNS:
        return Layout(name, dims, partial=True)
    if a.cut is not None and b.cut is not None:
        raise ProgramError(f"{said} cuts both dims of the result by {AXIS}: gather one side first")
    return Layout(name, dims, b.cut if a.cut is None else a.cut)


def nonlinear(a: Layout, name: str) -> Layout:
    """The layout of act(a), element by element; ProgramError for parts of a sum."""
    if a.partial:
        raise ProgramError(
            f"{a} holds parts of a sum, and a nonlinearity of a sum is not the sum of its parts'"
            f" nonlinearities: sum {a.name} over {AXIS} before it"
        )
    return replace(a, name=name)


def message(a: Layout, b: Layout) -> Op | None:
    """What brings `a` to `b`; None where each rank takes its block of what it has whole."""
    assert a != b and (a.name, a.dims) == (b.name, b.dims) and not b.partial, f"{a} -> {b}"
    if a.partial and b.cut != COLUMNS:
        return Op.ALL_REDUCE if b.whole else Op.REDUCE_SCATTER
    if a.whole:
        return None
    if b.whole:
        return Op.ALL_GATHER
    if a.partial:
        raise ProgramError(f"{a} -> {b}: a sum is scattered by rows only; take {b.cut_by(ROWS)}")
    return Op.ALL_TO_ALL

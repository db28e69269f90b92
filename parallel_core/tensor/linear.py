"""Tensor-parallel linears.   Shapes: B batch, S sequence, D model, F hidden, t = tp ranks.

    column   x[B, S, D]    @ w[F/tp, D]' -> y[B, S, F/tp]      no communication
    row      y[B, S, F/tp] @ w[D, F/tp]' -> z[B, S, D] +tp     then a sum over tp (g)

Column then row needs one sum a block: what is between them (GELU, attention heads) works on the
slice alone. Row first would need a sum before the nonlinearity, and a cut after it. A row's bias
is added once, after the sum. Shoeybi et al. 2019, arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from parallel_core.layers import Linear
from parallel_core.plan import Plan
from parallel_core.tensor.conjugate import Region
from parallel_core.tensor.overlap import gather_products, product_scatter


class ColumnLinear(Linear):
    """y[..., rows/tp] = x w' + b, each rank its rows of the matrix: a linear of fewer outputs."""


def products(x_bsd: Tensor, columns: Sequence[Linear], region: Region) -> tuple[Tensor, ...]:
    """One input through several column-parallel linears; with overlap it is gathered on the way."""
    if region.overlap:
        return gather_products(x_bsd, [(each.weight, each.bias) for each in columns], region)
    return tuple(each(x_bsd) for each in columns)


class RowLinear(Linear):
    """z = sum over tp of y w', each rank its columns of the matrix; then the bias, once.

    With `part` it gives the rank's part of that sum: somebody else will sum it with others.
    """

    def __init__(
        self, plan: Plan, rows: int, columns: int, region: Region, *, part: bool = False
    ) -> None:
        super().__init__(plan, rows, columns, bias=not part)
        self.region, self.part = region, part

    def forward(self, y: Tensor) -> Tensor:
        """y[B, S, columns of this rank] -> z[B, S, rows], or [B, S/tp, rows]."""
        if self.part:
            return self.product(y, self.weight)
        if self.region.overlap:
            z = product_scatter(y, self.weight, self.region)
        else:
            z = self.region.leave(self.product(y, self.weight))
        return z if self.bias is None else z + self.bias

"""Tensor-parallel linears.   Shapes: B batch, S sequence, D model, F hidden, t = tp ranks.

    column   x[B, S, D]    @ w[F/tp, D]' -> y[B, S, F/tp]      no communication
    row      y[B, S, F/tp] @ w[D, F/tp]' -> z[B, S, D] +tp     then a sum over tp (g)

Column then row needs one sum a block: what is between them (GELU, attention heads) works on the
slice alone. Row first would need a sum before the nonlinearity, and a cut after it. A row's bias
is added once, after the sum. Shoeybi et al. 2019, arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from torch import Tensor

from parallel_core.layers import Linear
from parallel_core.plan import Plan
from parallel_core.tensor.conjugate import Region


class ColumnLinear(Linear):
    """y[..., rows/tp] = x w' + b, each rank its rows of the matrix: a linear of fewer outputs."""


class RowLinear(Linear):
    """z = sum over tp of y w', each rank its columns of the matrix; then the bias, once."""

    def __init__(self, plan: Plan, rows: int, columns: int, region: Region) -> None:
        super().__init__(plan, rows, columns)
        self.region = region

    def forward(self, y: Tensor) -> Tensor:
        """y[B, S, columns of this rank] -> z[B, S, rows], or [B, S/tp, rows]."""
        z: Tensor = self.region.leave(self.product(y, self.weight))
        return z if self.bias is None else z + self.bias

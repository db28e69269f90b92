"""The embedding with its vocabulary cut over tp.

    ids[B, S] -> x[B, S, D] +tp       a rank looks up its own words, others give zero; then a sum

The sum is exact: of the ranks' parts one is the row, the rest are zeros. The backward needs no
message. Shoeybi et al. 2019, arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from torch import Tensor

from parallel_core.model import Table
from parallel_core.plan import Plan
from parallel_core.tensor.conjugate import Region


class VocabTable(Table):
    """Rows V/tp of the table: this rank's words, the last rank's padded."""

    def __init__(self, plan: Plan, region: Region) -> None:
        super().__init__(plan, plan.vocab_here)
        self.region = region

    def forward(self, ids_bs: Tensor) -> Tensor:
        """ids[B, S] -> x[B, S, D], or x[B, S/tp, D] under sequence parallelism."""
        rows = len(self.weight)
        local = ids_bs - self.region.me * rows
        foreign = (local < 0) | (local >= rows)
        x_bsd = self.look_up(local.masked_fill(foreign, 0), self.weight)
        return self.region.leave(x_bsd.masked_fill(foreign[..., None], 0))

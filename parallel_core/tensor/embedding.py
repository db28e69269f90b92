"""The embedding with its vocabulary cut over tp.

    ids[B, S] -> x[B, S, D] +tp       a rank looks up its own words, others give zero; then a sum

The sum is exact: of the ranks' parts one is the row, the rest are zeros. The backward needs no
message. Shoeybi et al. 2019, arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from parallel_core.layers import empty
from parallel_core.plan import Plan
from parallel_core.tensor.conjugate import Region


class VocabTable(nn.Module):
    """Rows V/tp of the table: this rank's words."""

    look_up: Callable[..., Tensor] = staticmethod(F.embedding)

    def __init__(self, plan: Plan, region: Region) -> None:
        super().__init__()
        self.region, self.rows = region, plan.model.vocab // region.n
        self.weight = empty(plan, self.rows, plan.model.hidden)

    def forward(self, ids_bs: Tensor) -> Tensor:
        """ids[B, S] -> x[B, S, D], or x[B, S/tp, D] under sequence parallelism."""
        local = ids_bs - self.region.me * self.rows
        foreign = (local < 0) | (local >= self.rows)
        x_bsd = self.look_up(local.masked_fill(foreign, 0), self.weight)
        return self.region.leave(x_bsd.masked_fill(foreign[..., None], 0))

"""What every rank of a context-parallel group has of its part of a sequence, put together.

    x[B, S/cp, E] -> x[B, S, E], in the order of positions, padding left out

For decisions about whole sequences (a router's). It carries no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from parallel_core.context.layout import AXIS, Layout

if TYPE_CHECKING:
    from parallel_core.comm import Comm


class WholeSequence:
    """The way between a rank's positions and all of them.

    `mine` [S/cp] says which a rank has, `real` which of them are no padding.
    """

    def __init__(self, comm: Comm, layout: Layout) -> None:
        self.comm = comm
        me = comm.mesh.coordinate(comm.rank)[AXIS]
        parts = [layout.positions(place) for place in range(layout.ranks)]
        self.mine = torch.tensor(parts[me])
        self.real = torch.tensor(layout.is_real(me))
        every = [position for part in parts for position in part]
        where = {position: i for i, position in enumerate(every)}
        self._order = torch.tensor([where[position] for position in range(layout.seq)])

    def gathered(self, x_bse: Tensor) -> Tensor:
        """x[B, S/cp, E] -> x[B, S, E]."""
        parts = self.comm.all_gather(x_bse.transpose(0, 1).contiguous(), AXIS, quick=True)
        return parts.index_select(0, self._order.to(x_bse.device)).transpose(0, 1)

    def part(self, x_bse: Tensor) -> Tensor:
        """A bool x[B, S, E] -> x[B, S/cp, E]: this rank's positions, nothing at its padding."""
        at = self.mine.clamp(max=x_bse.shape[1] - 1).to(x_bse.device)
        return x_bse.index_select(1, at) & self.real.to(x_bse.device)[:, None]

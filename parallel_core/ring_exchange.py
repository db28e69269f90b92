"""Each rank hands a tensor to the next one along an axis, and takes what the one before hands over.

    axis of 4    r0 -> r1 -> r2 -> r3 -> r0       one hop: everybody sends, everybody receives

Both are posted at once, so that a ring of ranks that wait for each other cannot deadlock; between
`Exchange(...)` and `wait()` the bytes travel beside whatever the rank computes. A shift is
booked on the axis, with the bytes of the tensor handed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from parallel_core.comm import Comm

TAG = 1 << 18
"""Tag of these messages, apart from a pipeline's and from those of exchange.py."""


class Exchange:
    """One hop of `x` along `axis`, under way; the axis has at least two ranks.

    `x` must be left as it is until `wait` has returned. All ranks of the axis give the same shape,
    dtype and `name`; CallMismatch if not.
    """

    def __init__(self, comm: Comm, x: Tensor, axis: str, *, name: str = "") -> None:
        members = comm.mesh.group(comm.rank, axis)
        me, n = members.index(comm.rank), len(members)
        after, before = members[(me + 1) % n], members[(me - 1) % n]
        assert n > 1, f"rank {comm.rank} has no neighbour along {axis}"
        self._booked, self._sent = comm.booked, comm._book("shift", axis, x)
        comm._agree((comm.rank, after), x.dtype, x.shape, name)
        comm._agree((before, comm.rank), x.dtype, x.shape, name)
        self._device, group = x.device, comm._groups[axis]
        self._out = x.cpu() if comm.staged else x.contiguous()  # must outlive its send
        self._came = torch.empty_like(self._out)
        self._works: list[Any] = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, self._out, after, group, TAG),
                dist.P2POp(dist.irecv, self._came, before, group, TAG),
            ]
        )

    def wait(self) -> Tensor:
        """What the rank before has handed over, when it is there and x has been taken."""
        for work in self._works:
            work.wait()
        self._booked.over(self._sent)
        return self._came.to(self._device)

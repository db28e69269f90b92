"""torch.distributed's own call for each collective, on the same inputs: the second opinion.

Its single-tensor calls want equal shares, so where chunks differ in size the list forms are used,
or there is no such call and the peer is None.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.names import chunk_sizes
from parallel_core.program import Value

Call = Callable[[], dict[Value, Tensor]]


def peer_call(
    op: str, group: Group, rank: int, elements: int, draw: Callable[[int, Value], Tensor]
) -> Call | None:
    """torch's call for `op` as a function without arguments that returns its outputs, or None.

    A whole buffer is the concatenation of its chunks, so any algorithm's chunks compare with it.
    """
    del elements
    calls: dict[str, Callable[[Group, int, Callable[[int, Value], Tensor]], Call | None]] = {
        "broadcast": _broadcast,
        "all_to_all": _all_to_all,
        "all_gather": _all_gather,
    }
    return calls[op](group, rank, draw) if op in calls else None


def _broadcast(group: Group, rank: int, draw: Callable[[int, Value], Tensor]) -> Call:
    x = draw(group.root, v.x(0))
    return lambda: (dist.broadcast(x, group.root), {})[1]


def _all_gather(group: Group, rank: int, draw: Callable[[int, Value], Tensor]) -> Call | None:
    return None


def _all_to_all(group: Group, rank: int, draw: Callable[[int, Value], Tensor]) -> Call | None:
    return None


__all__ = ["chunk_sizes", "peer_call", "torch"]

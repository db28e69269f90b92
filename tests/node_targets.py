"""Worker functions for the tests of several nodes' clocks."""

from __future__ import annotations

import time
from typing import Any

from parallel_core.node_clock import Clocks, node_clocks
from parallel_core.rank import Rank


def skewed(
    rank: Rank, skew_ns: int, drift: float, shift_late: int = 0
) -> list[dict[str, Any]] | None:
    """Two ranks as two nodes: node 1's clock is `skew_ns` ahead and `drift` too fast.

    `shift_late` is added to the second reading of its clock alone, as a clock that jumps would.
    """
    rank.init()
    began = time.perf_counter_ns()
    late = [0]

    def clock() -> int:
        now = time.perf_counter_ns()
        if rank.rank == 0:
            return now
        return now + skew_ns + round((now - began) * drift) + late[0]

    clocks = Clocks(rank.rank, [0, 1], clock=clock)
    before = clocks.read()
    time.sleep(0.3)
    late[0] = shift_late
    found = node_clocks(before, clocks.read())
    return [one.as_json() for one in found] if rank.rank == 0 else None

"""On real ranks: contests of experts with a fault planted in one side, and ranks that starve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parallel_core.bench import experts_ranks, experts_sides
from parallel_core.bench.experts_rows import GATHER
from parallel_core.comm import Comm
from parallel_core.plan import Plan
from parallel_core.rank import Rank


class Forgetful(experts_sides.ByAllToAll):
    """Sends the gradients of rows back the way they came from, row by row in another order."""

    def move(self, x_rd: Tensor, out: Any, back: Any) -> Tensor:
        came = super().move(x_rd, out, back)
        return came.flip(0)


class Thrifty(experts_sides.ByAllGather):
    """Counts only half of what it gathers."""

    def gather(self, x: Tensor) -> Tensor:
        before = self.sent
        whole = super().gather(x)
        self.sent = before + (self.sent - before) // 2
        return whole


def shuffled(rank: Rank, **args: Any) -> dict[str, Any]:
    """Rows arrive at the wrong experts."""
    experts_ranks.ByAllToAll = Forgetful  # in this rank's own process
    return experts_ranks.contend(rank, **args)


def miscounted(rank: Rank, **args: Any) -> dict[str, Any]:
    """Bytes are missing in the count."""
    experts_ranks.ByAllGather = Thrifty  # in this rank's own process
    return experts_ranks.contend(rank, **args)


def compared(rank: Rank, *, plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the comparison of each plan found, and what the messages' own book says of bytes."""
    torch.set_num_threads(1)
    rank.init("gloo")
    comm = Comm(Plan.of(**plans[0]).mesh, rank.rank)
    found = []
    for fields in plans:
        plan = Plan.of(**fields)
        n, before = plan.ep, _book(comm)
        _, told = experts_ranks.sides_of(plan, comm)
        after = _book(comm)
        grew = {op: after.get(op, 0) - before.get(op, 0) for op in after}
        gathered = (n - 1) * grew["all_gather"] + (n - 1) * grew["reduce_scatter"] // n
        found.append({**told, "booked": {GATHER: gathered, "rows": grew["all_to_all"]}})
    return found


def _book(comm: Comm) -> dict[str, int]:
    return {op: size for (_, op), (_, size) in comm.counts().items()}

"""On real ranks: the slowed wire by the clock, and a sweep with a fault planted in pass-Q."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from parallel_core.bench import context_crossover_ranks as ranks
from parallel_core.context.context import Passing
from parallel_core.context.layout import AXIS, Layout
from parallel_core.mesh import Mesh
from parallel_core.rank import Rank


def wire(rank: Rank, *, rate: float, bytes: int) -> dict[str, float]:
    """Seconds of a hop, of one that a pause is beside, of an all-to-all, and of a hop at no rate;
    the fastest of five."""
    rank.init("gloo")
    n = rank.world_size
    comm = ranks.SlowComm(Mesh(((AXIS, n),)), rank.rank)
    context = ranks.SlowContext(comm, Layout(seq=2 * n, ranks=n, zigzag=True))
    x, ones = torch.zeros(n, bytes // 4 // n), [1] * n

    def beside() -> None:
        under_way = context.pass_on(x, "x")
        time.sleep(0.03)
        under_way.wait()

    def seconds(call: Callable[[], Any]) -> float:
        found = []
        for _ in range(5):
            dist.barrier()
            begin = time.perf_counter()
            call()
            found.append(time.perf_counter() - begin)
        return min(found)

    told = {"unslowed": seconds(lambda: context.pass_on(x, "x").wait())}
    comm.rate = rate
    return told | {
        "hop": seconds(lambda: context.pass_on(x, "x").wait()),
        "hop beside 30 ms": seconds(beside),
        "all_to_all": seconds(lambda: comm.all_to_all(x, AXIS, ones, ones)),
    }


def twice(rank: Rank, **args: Any) -> dict[str, Any]:
    """Every hop of queries is handed over once more."""
    usual = ranks.SlowContext.pass_on

    def again(self: ranks.SlowContext, x: torch.Tensor, what: str) -> Passing:
        if what == "q":
            usual(self, x, what).wait()
        return usual(self, x, what)

    ranks.SlowContext.pass_on = again  # type: ignore[method-assign]  # in this rank's own process
    return ranks.sweep(rank, **args)

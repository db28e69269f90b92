"""On real ranks: when products run, and when the messages that feed them are under way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel_core.comm import Comm
from parallel_core.mesh import Mesh
from parallel_core.rank import Rank, choose_backend
from parallel_core.tensor.conjugate import AXIS, Region
from parallel_core.tensor.overlap import gather_products

Stamps = list[tuple[int, int]]


def products_and_messages(rank: Rank) -> dict[str, Any]:
    """One column-parallel product, hidden and plain: stamps of both, and how far results differ."""
    rank.init(choose_backend(rank.local_size))
    comm = Comm(Mesh(((AXIS, rank.world_size),)), rank.rank)
    torch.manual_seed(0)
    x = torch.randn(2, 64, 96, dtype=torch.float64)
    weight = torch.randn(128, 96, dtype=torch.float64)
    told: dict[str, Any] = {}
    made = []
    for name in ("overlap", "plain"):
        region = Region.of(comm, sequence=True, overlap=name == "overlap")
        mine = x.chunk(region.n, dim=1)[region.me].clone().requires_grad_()
        w = weight.clone().requires_grad_()

        def forward(mine: Tensor = mine, w: Tensor = w, region: Region = region) -> Tensor:
            if region.overlap:
                return gather_products(mine, [(w, None)], region)[0]
            return F.linear(region.enter(mine), w)

        with watched(comm) as ahead:
            y = forward()
        with watched(comm) as back:
            y.square().sum().backward()
        told[name] = {"forward": ahead, "backward": back}
        made.append((y.detach(), mine.grad, w.grad))
    told["overlap"]["same"] = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(*made, strict=True)
    )
    return told


@contextmanager
def watched(comm: Comm) -> Iterator[dict[str, Stamps]]:
    """Begin and end of every product and of every message inside the block."""
    found: dict[str, Stamps] = {"products": [], "messages": []}
    matmul, linear, product = torch.matmul, F.linear, Tensor.__matmul__
    comm.booked.since()

    def timed(call: Any) -> Any:
        def run(*args: Any, **named: Any) -> Any:
            begin = time.perf_counter_ns()
            result = call(*args, **named)
            found["products"].append((begin, time.perf_counter_ns()))
            return result

        return run

    torch.matmul, F.linear, Tensor.__matmul__ = timed(matmul), timed(linear), timed(product)
    try:
        yield found
    finally:
        torch.matmul, F.linear, Tensor.__matmul__ = matmul, linear, product
    found["messages"] = [(sent.start, sent.done) for sent in comm.booked.since()]

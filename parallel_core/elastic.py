"""The same run under torchrun, on one node or several: torchrun is the engine, this only gathers.

torchrun --nproc-per-node 4 -m parallel_core.cli run --dp 4
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch.distributed as dist

from parallel_core.fields import PlanError
from parallel_core.parameter_server_report import view_of
from parallel_core.rank import torchrun_rank
from parallel_core.report import RunView
from parallel_core.request import Request


def run_under_torchrun(request: Request) -> tuple[RunView, dict[str, Any]] | None:
    """Train as the rank torchrun made this process; on rank 0 the followed run and its report.

    Raises PlanError if torchrun started another number of ranks than the plan has.
    """
    rank = torchrun_rank()
    assert rank is not None
    if rank.world_size != request.plan.world_size:
        rule = f"must give as many ranks as torchrun started ({rank.world_size})"
        raise PlanError("dp", request.plan.dp, rule, rank.world_size)
    events: list[dict[str, Any]] = []
    rank.emit = events.append
    target, _, args = request.order
    module, _, name = target.partition(":")
    result = getattr(import_module(module), name)(rank, **args)
    every: list[Any] = [(result, events)]
    if rank.world_size > 1:
        every = [None] * rank.world_size
        dist.gather_object((result, events), every if rank.rank == 0 else None)
    rank.close()
    if rank.rank:
        return None
    view = view_of(request.plan)
    for _, told in every:
        for event in told:
            view.feed(event)
    return view, view.finish([result for result, _ in every])

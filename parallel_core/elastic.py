"""The same run under torchrun, on one node or several: torchrun is the engine, this only gathers.

torchrun --nproc-per-node 4 -m parallel_core.cli run --dp 4

Of several nodes the clocks are measured before the run and after it (node_clock.py), and every
time is laid on the clock of the first; the trace says how sure that is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch.distributed as dist

from parallel_core.fields import PlanError
from parallel_core.node_clock import Clocks, NodeClock, node_clocks, offsets, words
from parallel_core.parameter_server_report import view_of
from parallel_core.rank import Rank, choose_backend, torchrun_rank
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
    nodes = _nodes(rank)
    clocks = Clocks(rank.rank, nodes) if len(set(nodes)) > 1 else None
    before = clocks.read() if clocks else {}
    result = getattr(import_module(module), name)(rank, **args)
    laid = node_clocks(before, clocks.read() if clocks else {})
    every: list[Any] = [(result, events)]
    if rank.world_size > 1:
        every = [None] * rank.world_size
        dist.gather_object((result, events), every if rank.rank == 0 else None)
    rank.close()
    return None if rank.rank else _followed(request, every, nodes, laid)


def _nodes(rank: Rank) -> list[int]:
    """The node of every rank, as torchrun numbers its agents."""
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) == 1:
        return [0] * rank.world_size
    rank.init(choose_backend(rank.local_size))
    nodes: list[int] = [0] * rank.world_size
    dist.all_gather_object(nodes, int(os.environ["GROUP_RANK"]))
    return nodes


def _followed(
    request: Request, every: Sequence[Any], nodes: Sequence[int], laid: Sequence[NodeClock]
) -> tuple[RunView, dict[str, Any]]:
    """The run as rank 0 followed it, on one clock; `every` is (result, events) by rank."""
    view = view_of(request.plan)
    clock_of = {clock.node: clock for clock in laid}
    for node, (_, told) in zip(nodes, every, strict=True):
        for event in told:
            view.feed(on_our_clock(event, clock_of.get(node)))
    results = [result for result, _ in every]
    if laid:
        backend = results[0]["backend"]
        backend["note"] = ", ".join(filter(None, (backend["note"], words(laid))))
        backend["clocks"] = offsets(laid, nodes)
    report = view.finish(results)
    report["trace"]["clocks"] = [clock.as_json() for clock in laid]
    return view, report


def on_our_clock(event: Mapping[str, Any], clock: NodeClock | None) -> Mapping[str, Any]:
    """An event of a rank with its times on the first node's clock; `clock` is its own node's,
    None where that is the first."""
    if clock is None:
        return event
    match event["event"]:
        case "notes":
            return {**event, "notes": clock.shift_notes(event["notes"])}
        case "gauge":
            rows = [[s, i, clock.shifted(t), *kinds] for s, i, t, *kinds in event["rows"]]
            return {**event, "rows": rows}
    return event

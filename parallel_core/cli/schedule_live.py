"""`shardlab schedule --run`: the order on real processes, and what was measured under the plan."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from parallel_core.cli.run_command import follow
from parallel_core.cli.schedule_picture import picture, tasks_from_to
from parallel_core.cli.summary import print_summary
from parallel_core.pipeline.order import Order
from parallel_core.plan import OWN, ModelShape
from parallel_core.quantities import time_text
from parallel_core.report import RunView
from parallel_core.request import Request
from parallel_core.views.marks import typical_step

BATCH = 16  # sequences in a step, rounded up to whole microbatches


def run_live(order: Order, name: str | None, steps: str) -> tuple[RunView, dict[str, Any]]:
    """Train `steps` steps in this order; every stage has a layer. As `shardlab run` otherwise.

    `name` is the line of the table that the order comes from, None for the reader's own.
    """
    layers = max(ModelShape().layers, order.stages)
    rows = -(-BATCH // order.m)
    sizes = {"pp": order.p, "microbatches": order.m, "layers": layers, "steps": steps}
    sizes["global_batch"] = rows * order.m
    own = Request.of(**sizes, schedule=OWN, order=str(order))
    return follow((_named(order, name, sizes) or own).checked())


def _named(order: Order, name: str | None, sizes: dict[str, Any]) -> Request | None:
    """The request that asks for the schedule by name, if that gives this very order.

    An automatic schedule may not: its order came from times and a cap that only we were told.
    """
    if name is None:
        return None
    stages = -(-order.stages // order.p)
    request = Request.of(**sizes, schedule=name, virtual_stages=stages)
    return request if request.plan.pipeline.ranks == order.ranks else None


def show_live(view: RunView, report: dict[str, Any]) -> None:
    """One step on one axis of time: planned under the measured times, and measured."""
    out = Console(highlight=False)
    step = typical_step(view.trace)
    clocks = {
        "the plan, each task as long as it was measured, one device a rank": view.own_device(),
        "measured, by this machine's clock": view.trace,
    }
    drawn = {words: trace.only(step) for words, trace in clocks.items()}
    until = max(last - first for first, last in map(tasks_from_to, drawn.values()))
    for words, trace in drawn.items():
        out.print(f"step {step}: {words}", style="bold")
        out.print(picture(trace, out.width, until=until, say=time_text))
        out.print(trace.provenance.badge, style="dim")
    print_summary(view, report)

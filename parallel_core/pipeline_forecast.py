"""What a pipeline's step should take, from how long its own parts took: the median of each.

A forecast knows of a run only what one could have timed without a pipeline: for every rank, stage
and op (F, B, I, W, and what stands around them) the median of its own CPU time, over microbatches
and steps. Simulated in the program's order it predicts the bubble. The replay (replay.py) gives
each instruction the time that it took itself; where the two part, the microbatches were uneven.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from parallel_core.cost import Link, MeasuredCost
from parallel_core.plan import Plan
from parallel_core.program import Program
from parallel_core.replay import fit_link, model_cost
from parallel_core.simulate import simulate
from parallel_core.trace import Kind, Trace

Part = tuple[int, str, str]
"""(rank, op, stage): what has one time in a forecast."""


@dataclass(frozen=True)
class MedianCost(MeasuredCost):
    """As MeasuredCost, each op at the median of its kind on its rank."""

    kind: Kind = Kind.MODELLED

    @property
    def text(self) -> str:
        """What the forecast assumes, for the badge."""
        return f"median own CPU time of each rank, stage and op, {self.model.link}"


def forecast(plan: Plan, program: Program, trace: Trace, *, link: Link | None = None) -> Trace:
    """One step of `program`, on one device a rank, at the medians of a measured run of `plan`.

    Messages go over `link`, by default the one fitted from this run: what is compared with a
    replay must be given the same. Raises ValueError if the run never finished some kind of task.
    """
    times = medians(trace)
    own: dict[tuple[int, str], float] = {}
    for rank, _, instr in program:
        if instr.op.is_message:
            continue
        part = (rank, instr.op.value, instr.where)
        if part not in times:
            raise ValueError(f"the run has no {instr.label} on rank {rank}; let it end a step")
        own[rank, instr.label] = times[part]
    model = model_cost(plan, link=link or fit_link(trace, program))
    return simulate(program, MedianCost(own, model))


def medians(trace: Trace) -> dict[Part, float]:
    """Seconds of own CPU time of each part, the median over its microbatches and steps."""
    every: dict[Part, list[int]] = defaultdict(list)
    for span in trace.spans:
        every[span.rank, span.op, span.where].append(span.cpu_ns)
    return {part: median(spent) / 1e9 for part, spent in every.items()}

"""What a layout is measured by: every figure read off its runs, one number a round.

The wall clock says what this machine did; where ranks share cores it says little of a layout. So
there is the own-device clock beside it (replay.py): the same steps, as if each rank had a device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.lateness import Meeting
from parallel_core.bench.measurement import Measurement
from parallel_core.compare.rate import Rate, mfu
from parallel_core.live import LiveRun
from parallel_core.meetings import complete, messages
from parallel_core.trace import Trace
from parallel_core.views.exposure import use


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One column: its title, unit, by which clock ("" by none), what it is, and which way is good
    (1 more, -1 less, 0 neither)."""

    title: str
    unit: str
    clock: str
    what: str
    better: int


WALL, OWN = "wall", "own devices"

FIGURES: dict[str, Figure] = {
    "tokens_per_s": Figure(
        title="throughput", unit="tokens/s", clock=WALL, better=1,
        what="tokens of a step over its seconds, as rank 0 saw them",
    ),
    "step_ms": Figure(
        title="latency", unit="ms", clock=WALL, better=-1, what="one training step"
    ),
    "own_tokens_per_s": Figure(
        title="throughput", unit="tokens/s", clock=OWN, better=1,
        what="tokens of a step over its seconds, each rank on a device of its own",
    ),
    "own_step_ms": Figure(
        title="latency", unit="ms", clock=OWN, better=-1,
        what="one training step, each rank on a device of its own",
    ),
    "utilisation": Figure(
        title="utilisation", unit="%", clock=OWN, better=1,
        what="time in which ranks compute, of all their time",
    ),
    "compute_ms": Figure(
        title="computing", unit="ms", clock=OWN, better=-1,
        what="time in which a rank computes in a step, mean over ranks",
    ),
    "comm_share": Figure(
        title="communication", unit="%", clock=OWN, better=-1,
        what="time in which messages move, hidden or not, of a step: waiting for whoever comes late"
             " is idle time, and the loss's scalar is left out",
    ),
    "exposed_ms": Figure(
        title="exposed", unit="ms", clock=OWN, better=-1,
        what="time in which messages move and the rank computes nothing, in a step",
    ),
    "sent_bytes": Figure(
        title="sent", unit="bytes", clock="", better=-1,
        what="bytes that leave a rank in a step, mean over ranks, counted",
    ),
    "state_bytes": Figure(
        title="state", unit="bytes", clock="", better=-1,
        what="weights, gradients and optimizer of the fullest rank, counted",
    ),
    "peak_bytes": Figure(
        title="peak", unit="bytes", clock="", better=-1,
        what="most bytes that the allocator of the fullest rank had out after an instruction",
    ),
    "loss": Figure(title="loss", unit="nats", clock="", better=-1, what="of the last step"),
    "perplexity": Figure(title="perplexity", unit="", clock="", better=-1, what="exp(loss)"),
    "mfu": Figure(
        title="MFU", unit="%", clock=OWN, better=1,
        what="model FLOPs over what the ranks' devices could compute in a step",
    ),
}  # fmt: skip
"""By name, in the order of the table."""

Samples = Mapping[str, list[float]]
"""The figures of one layout, a number a round."""


def samples(runs: Sequence[LiveRun], rate: Rate) -> Samples:
    """Every figure of a layout's runs, one number a run; MFU only where a peak is known."""
    rounds = [figures(run, rate) for run in runs]
    return {name: [each[name] for each in rounds] for name in FIGURES if name in rounds[0]}


def figures(run: LiveRun, rate: Rate) -> dict[str, float]:
    """Every figure of one run: of time the medians or means over its steps but the first."""
    report, plan = run.report, run.plan
    steps = report["steps"]
    timed = [row["tokens_per_s"] for row in steps[1:] or steps]
    spent, whole = use(moving(run.own)), exposed(run.own, warmup=1)
    step_ms = use(run.own).step
    sent = report["ledger"]["wire"]["measured_total_bytes"]
    speed, loss = median(timed), float(steps[-1]["loss"])
    computed = sum(rank.compute_ns for rank in whole.ranks) / len(whole.ranks)
    found = {
        "tokens_per_s": speed,
        "step_ms": 1e3 * plan.tokens_per_step / speed,
        "own_tokens_per_s": 1e3 * plan.tokens_per_step / step_ms,
        "own_step_ms": step_ms,
        "utilisation": 100 * (1 - whole.bubble_of_total),
        "compute_ms": computed / len(timed) / 1e6,
        "comm_share": 100 * spent.comm / step_ms,
        "exposed_ms": spent.exposed,
        "sent_bytes": sent / len(steps) / plan.world_size,
        "state_bytes": float(report["ledger"]["memory"]["peak_state_bytes"]),
        "peak_bytes": float(max(span.memory for span in run.trace.spans)),
        "loss": loss,
        "perplexity": math.exp(loss),
    }
    if rate.peak:
        found["mfu"] = 100 * mfu(plan, step_ms / 1e3, rate.peak)
    return found


def moving(trace: Trace) -> Trace:
    """The trace with each message begun when it began to move, not when its rank stood ready.

    A rank of a pipeline that waits for its neighbour's result does not communicate: the time until
    the last end was there and its lane was free (analysis/lateness.py) is taken off the front.
    """
    begun = {}
    for ends in filter(complete, messages(trace)):
        meeting = Meeting.of(ends)
        for end in ends:
            *_, wire = meeting.parts(end, end.t_start, end.t_done)
            begun[id(end)] = end.t_done - wire
    spans = (replace(s, t_start=begun.get(id(s), s.t_start)) for s in trace.spans)
    return replace(trace, spans=tuple(spans))


def measured(each: Samples) -> dict[str, dict[str, Any]]:
    """A layout's figures with their spread, JSON-ready."""
    return {
        name: asdict(Measurement.of(numbers, FIGURES[name].unit)) for name, numbers in each.items()
    }

"""What `shardlab schedule` is asked: sizes, times, and the order that follows from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parallel_core.fields import PlanError, choice, real, shown, validate, whole
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.figures import figures_of, simulated
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.reading import read_file
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.trace import Trace

MOST = 1_000_000  # microbatches times stages that a simulation is asked for

_SLOW = re.compile(r"([0-9]{1,6}):([0-9]{0,9}\.?[0-9]{1,9})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ScheduleRequest:
    """The options of the command, checked. Times are in beats, whatever a beat is."""

    schedule: str = choice("1f1b", SCHEDULES, "which schedule")
    pp: int | None = whole(None, 1, 1024, "ranks of the pipeline")
    microbatches: int | None = whole(None, 1, 65536, "microbatches of a step")
    virtual_stages: int | None = whole(None, 1, 64, "stages a rank (default: the fewest)")
    tf: float = real(1.0, 0.0, 1e6, "forward of a microbatch through a rank")
    ti: float = real(1.0, 0.0, 1e6, "its backward for the input")
    tw: float = real(1.0, 0.0, 1e6, "its backward for the weights")
    tcomm: float = real(0.0, 0.0, 1e6, "latency of a message; nobody is busy with it")
    cap: float | None = real(None, 0.5, 65536, "microbatches a rank may hold")

    def __post_init__(self) -> None:
        validate(self)
        if not self.tf + self.ti + self.tw:
            raise PlanError("tf", 0, "leaves nothing to do, with ti=0 and tw=0", 1)

    def times(self, p: int, slow: Mapping[int, float]) -> Times:
        """What p ranks need."""
        for rank in slow:
            if rank >= p:
                raise PlanError("slow", rank, f"is no rank of {p}, counted from 0", p - 1)
        return Times.even(p, tf=self.tf, ti=self.ti, tw=self.tw, tcomm=self.tcomm, slow=slow)

    def job(self, slow: Mapping[int, float]) -> Job:
        """Its sizes: 4 ranks, two microbatches a rank, the fewest stages, where none are given."""
        p = self.pp or 4
        m = self.microbatches or 2 * p
        v = self.virtual_stages or SCHEDULES[self.schedule].fewest
        if p * m * v > MOST:
            rule = f"is too many for pp={p} and virtual_stages={v}: at most {MOST:,} in all"
            raise PlanError("microbatches", m, rule, max(1, MOST // (p * v)))
        return Job(p=p, m=m, v=v, times=self.times(p, slow), cap=self.cap)

    def of_file(self, path: Path) -> Order:
        """The legal order in a file; the sizes that were given are held against it."""
        order = read_file(path)
        legal(order, p=self.pp, m=self.microbatches)
        v = stages_a_rank(order)
        if self.virtual_stages not in (None, v):
            rule = f"does not fit the order, whose {order.p} ranks share {order.stages} stages"
            raise PlanError("virtual_stages", self.virtual_stages, rule, v)
        return order


def stages_a_rank(order: Order) -> int:
    """v: how many stages there are for each rank, rounded up."""
    return -(-order.stages // order.p)


def slow_ranks(given: Sequence[str]) -> dict[int, float]:
    """RANK:FACTOR, as often as given.

    >>> slow_ranks(["1:1.5"])
    {1: 1.5}
    """
    found = {}
    for text in given:
        match = _SLOW.fullmatch(text.strip())
        if match is None or not float(match[2]):
            raise PlanError("slow", shown(text), "must be a rank and a factor over 0", "0:1.5")
        found[int(match[1])] = float(match[2])
    return found


def report_of(
    order: Order, v: int, times: Times, cap: float | None
) -> tuple[dict[str, Any], Trace]:
    """The numbers of an order as the JSON form has them, and the trace they were read from."""
    trace = simulated(order, times)
    found = figures_of(trace, order)
    most = max(found.peak_in_flight)
    if cap is not None and most > cap:
        rule = f"is less than {order.name} holds at its peak"
        raise PlanError("cap", f"{cap:g}", rule, f"{most:g}")
    report = {
        "name": order.name,
        "p": order.p,
        "m": order.m,
        "v": v,
        "makespan": found.makespan,
        "bubble_ratio": found.bubble_ratio,
        "bubble_fraction": found.bubble_fraction,
        "bubble_rate": found.bubble_rate,
        "idle": found.idle,
        "peak_in_flight": found.peak_in_flight,
        "order": [order.cells(rank) for rank in range(order.p)],
        "times": asdict(times),
    }
    return report, trace

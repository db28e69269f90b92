"""Traces by hand and of simulated pipelines, for the tests of idle slots."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import settings

from parallel_core.analysis.cause import Idle
from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.idle import totals
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.simulate import simulate
from parallel_core.trace import Kind, Provenance, Span, Trace

BEAT = 1_000_000_000
calm = settings(deadline=None, max_examples=60)  # a shared machine may stall for a moment


def ran(name: str, p: int, m: int, **more: Any) -> Trace:
    """A schedule of the table on paper: `v`, `blocking`, `rendezvous`, all else goes to Times."""
    order = SCHEDULES[name].of(Job(p=p, m=m, v=more.pop("v", 1)))
    blocking, rendezvous = more.pop("blocking", False), more.pop("rendezvous", False)
    cost = PipelineCost.of(order, Times.even(p, **more))
    return simulate(lower(order, blocking=blocking), cost, rendezvous=rendezvous)


def span(rank: int, op: str, begin: float, end: float, **more: Any) -> Span:
    """A span in beats; messages are on the lane of their direction unless told otherwise."""
    lanes = {"send": "to_next", "recv": "from_prev", "all_reduce": "comm"}
    facts = {
        "rank": rank,
        "step": 0,
        "index": 0,
        "op": op,
        "lane": lanes.get(op, "compute"),
        "t_post": round(begin * BEAT),
        "t_start": round(begin * BEAT),
        "t_done": round(end * BEAT),
        **more,
    }
    return Span(**facts)


def trace(*spans: Span, ranks: int = 2, kind: Kind = Kind.MODELLED) -> Trace:
    return Trace(spans, Provenance(kind=kind, title="by hand"), ranks)


def beats(found: tuple[Idle, ...], rank: int) -> list[tuple[str, float, float]]:
    """(cause, start, end) of the slots of a rank, in beats."""
    return [(s.cause.value, s.start / BEAT, s.end / BEAT) for s in found if s.rank == rank]


def conserves(run: Trace, found: tuple[Idle, ...]) -> None:
    """Work and idle slots tile the makespan of each rank; the slots are in order and apart."""
    work = {use.rank: use.compute_ns for use in exposed(run).ranks}
    idle_ns = {rank: sum(causes.values()) for rank, causes in totals(found).items()}
    for rank, ns in work.items():
        assert ns + idle_ns.get(rank, 0) == run.makespan
    for one, two in pairwise(found):
        assert one.rank < two.rank or one.end <= two.start
    assert all(slot.start < slot.end for slot in found)

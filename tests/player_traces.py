"""Traces by hand and one of a real run, for the tests of the player."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from demo_trace import dp_step

from parallel_core.trace import Kind, NodeOffset, Provenance, Span, Trace


@pytest.fixture(scope="module")
def measured() -> Trace:
    """A step in which rank 2 is slow, so that all others wait for it."""
    return dp_step(kind=Kind.MEASURED, slow={2: 1.7})


def span(rank: int, op: str, start: int, done: int, **more: Any) -> Span:
    """A span posted when it starts, on the lane its op usually has."""
    lane = "compute" if op in {"F", "B", "wait"} else "comm"
    given: dict[str, Any] = {"step": 0, "index": 0, "lane": lane, "t_post": start} | more
    return Span(rank=rank, op=op, t_start=start, t_done=done, **given)


def trace_of(*spans: Span, ranks: int = 2) -> Trace:
    return Trace(spans, Provenance(kind=Kind.MODELLED, title="by hand"), ranks)


UNSURE = 5_000
"""Nanoseconds by which the other node's clock may be wrong, in `two_nodes`."""
MESSAGE = {"bytes": 8, "seq": 0}


def two_nodes(unsure: int = UNSURE) -> Trace:
    """Ranks 0, 1 on one node, 2, 3 on another: a sum on each, then one over all; 100 µs."""
    spans = []
    for rank in range(4):
        pair = (0, 1) if rank < 2 else (2, 3)
        spans += [
            span(rank, "F", 0, 20_000),
            span(rank, "all_reduce", 20_000, 40_000, peers=pair, axis="tp", index=1, **MESSAGE),
            span(rank, "all_reduce", 60_000, 80_000, peers=(0, 1, 2, 3), axis="dp", **MESSAGE),
            span(rank, "F", 80_000, 100_000, index=3),
        ]
    trace = trace_of(*spans, ranks=4)
    clock = NodeOffset(node=1, ranks=(2, 3), off_ns=-7_000_000, unsure_ns=unsure)
    source = replace(trace.provenance, kind=Kind.MEASURED, clocks=(clock,) if unsure else ())
    return replace(trace, provenance=source)

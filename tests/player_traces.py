"""Traces by hand and one of a real run, for the tests of the player."""

from __future__ import annotations

from typing import Any

import pytest
from demo_trace import dp_step

from parallel_core.trace import Kind, Provenance, Span, Trace


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

"""Traces by hand, in milliseconds, for the tests of the analysis."""

from __future__ import annotations

from typing import Any

from parallel_core.trace import Kind, Provenance, Span, Trace

MS = 1_000_000
GROUP = (0, 1)


def span(rank: int, op: str, begin: float, end: float, **more: Any) -> Span:
    """A span in milliseconds; on the comm lane if it has peers."""
    facts = {
        "rank": rank,
        "step": 0,
        "index": 0,
        "op": op,
        "lane": "comm" if more.get("peers") else "compute",
        "t_post": round(begin * MS),
        "t_start": round(begin * MS),
        "t_done": round(end * MS),
        **more,
    }
    return Span(**facts)


def trace(*spans: Span, ranks: int = 2) -> Trace:
    return Trace(spans, Provenance(kind=Kind.MODELLED, title="by hand"), ranks)


def reduce(rank: int, begin: float, end: float, **more: Any) -> Span:
    return span(rank, "all_reduce", begin, end, **{"axis": "dp", "peers": GROUP, "seq": 0, **more})


# Rank 0 computes 4 ms and waits for rank 1, which computes 10; the wire takes 1.
LATE = trace(
    span(0, "F", 0, 4, where="layer0", mb=0),
    reduce(0, 4, 11, index=1, deps=(0,)),
    span(0, "wait", 4, 11, index=2, deps=(1,)),
    span(0, "O", 11, 13, index=3, deps=(1,)),
    span(1, "F", 0, 10, where="layer0", mb=0),
    reduce(1, 10, 11, index=1, deps=(0,)),
    span(1, "wait", 10, 11, index=2, deps=(1,)),
    span(1, "O", 11, 12, index=3, deps=(1,)),
)

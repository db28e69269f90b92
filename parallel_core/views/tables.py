"""Tables of a trace: rows ready for a data frame, one dict a row, units in the column names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from parallel_core.analysis.compare import Comparison, medians
from parallel_core.analysis.critical_path import CriticalPath
from parallel_core.analysis.exposed import Exposure
from parallel_core.analysis.waits import RankTotal, Wait
from parallel_core.trace import Trace

Row = dict[str, Any]


def span_rows(trace: Trace, *, limit: int = 5000) -> list[Row]:
    """The spans in order of rank and start, times from the trace's start; the first `limit`."""
    zero = trace.start
    spans = [span for row in trace.by_rank for span in row]
    return [
        {
            "rank": s.rank,
            "step": s.step,
            "lane": s.lane,
            "op": s.label,
            "start (ms)": _ms(s.t_start - zero),
            "duration (ms)": _ms(s.duration),
            "queued (ms)": _ms(s.t_start - s.t_post),
            "own CPU (ms)": _ms(s.cpu_ns),
            "bytes": s.bytes,
            "axis": s.axis or "",
            "peers": ", ".join(map(str, s.peers)),
            "memory (bytes)": s.memory,
        }
        for s in spans[:limit]
    ]


def wait_rows(found: Iterable[Wait], *, limit: int = 5000) -> list[Row]:
    """The waits, the longest first."""
    ordered = sorted(found, key=lambda w: -w.wait_ns)
    return [
        {
            "rank": w.rank,
            "step": w.span.step,
            "message": w.span.label,
            "wait (ms)": _ms(w.wait_ns),
            "queue (ms)": _ms(w.queue_ns),
            "wire (ms)": _ms(w.wire_ns),
            "waited for": f"rank {w.culprit}" if w.wait_ns else "",
            "which was": w.culprit_was_doing,
            "bytes": w.span.bytes,
            "in words": w.sentence,
        }
        for w in ordered[:limit]
    ]


def total_rows(sums: Sequence[RankTotal]) -> list[Row]:
    """Wait, queue, wire and waiting caused, per rank."""
    return [
        {
            "rank": r.rank,
            "messages": r.messages,
            "waited (ms)": _ms(r.wait_ns),
            "queue (ms)": _ms(r.queue_ns),
            "wire (ms)": _ms(r.wire_ns),
            "others waited for it (ms)": _ms(r.caused_ns),
        }
        for r in sums
    ]


def use_rows(use: Exposure) -> list[Row]:
    """Compute, communication hidden and exposed, idle, per rank."""
    return [
        {
            "rank": r.rank,
            "compute (ms)": _ms(r.compute_ns),
            "communication (ms)": _ms(r.comm_ns),
            "hidden (ms)": _ms(r.hidden_ns),
            "exposed (ms)": _ms(r.exposed_ns),
            "idle (ms)": _ms(r.idle_ns),
            "computing (%)": round(100 * r.utilisation, 1),
        }
        for r in use.ranks
    ]


def median_rows(trace: Trace, *, warmup: int = 0) -> list[Row]:
    """The median duration of every op over the steps it ran, the longest first."""
    ordered = sorted(medians(trace, warmup=warmup).values(), key=lambda m: -m.median_ns)
    return [
        {
            "rank": m.rank,
            "op": m.op,
            "where": m.where,
            "microbatch": m.mb,
            "times run": m.count,
            "median (ms)": _ms(m.median_ns),
        }
        for m in ordered
    ]


def compare_rows(both: Comparison) -> list[Row]:
    """Two traces by op, what lost most time first; None where a trace does not have it."""
    return [
        {
            "op": row.label,
            "before (ms)": None if row.before is None else _ms(row.before.median_ns),
            "after (ms)": None if row.after is None else _ms(row.after.median_ns),
            "ratio": None if row.ratio is None else round(row.ratio, 3),
            "lost (ms)": _ms(row.lost_ns),
        }
        for row in both.rows
    ]


def path_rows(path: CriticalPath, begin: int) -> list[Row]:
    """The pieces of a critical path in order of time, starts counted from `begin` (ns)."""
    return [
        {
            "rank": None if piece.span is None else piece.span.rank,
            "op": "nothing recorded" if piece.span is None else piece.span.label,
            "start (ms)": _ms(piece.begin - begin),
            "on the path (ms)": _ms(piece.ns),
        }
        for piece in path.pieces
    ]


def _ms(ns: float) -> float:
    """Milliseconds, to the microsecond."""
    return round(ns / 1e6, 3)

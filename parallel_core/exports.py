"""A Trace as Chrome JSON, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A process a rank, a thread a lane, an "X" event a span (ts and dur in microseconds since the
trace's start), a counter for the rank's live memory, and an arrow from the end of each message
that arrived last to those that waited for it. Messages inside tasks have a thread of their own,
or several where some are under way at once. `otherData` says where the trace comes from.

Format: "Trace Event Format", the JSON that Chromium's tracing writes.
"""

from __future__ import annotations

import json
from typing import Any

from parallel_core.meetings import complete, last_arrival, messages
from parallel_core.program import Lane, Op
from parallel_core.quantities import time_text
from parallel_core.trace import Span, Trace

Event = dict[str, Any]
_LANES = {Lane.COMPUTE.value: 0, Lane.COMM.value: 1}


def chrome_trace(trace: Trace) -> dict[str, Any]:
    """The Chrome JSON object of `trace`."""
    lanes = {**_LANES}
    for span in trace.spans:
        lanes.setdefault(span.lane, len(lanes))
    zero = trace.start
    events = [*_names(trace, lanes), *_slices(zero, lanes, trace)]
    events += _inside(zero, len(lanes), trace)
    events += _memory(zero, trace)
    events += _arrows(zero, lanes, trace)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "kind": trace.kind.value,
            "title": trace.provenance.title,
            "provenance": trace.provenance.badge,
            "versions": trace.provenance.versions,
            "plan": trace.provenance.plan,
        },
    }


def chrome_json(trace: Trace) -> str:
    """`chrome_trace` as text, ready to be saved as a .json file."""
    return json.dumps(chrome_trace(trace), separators=(",", ":"))


def _names(trace: Trace, lanes: dict[str, int]) -> list[Event]:
    """Metadata: each rank's process is called `rank 2`, each lane's thread by its name."""
    events = []
    used = sorted({(s.rank, s.lane) for s in trace.spans}, key=lambda u: (u[0], lanes[u[1]]))
    for rank in sorted({rank for rank, _ in used}):
        clock = trace.provenance.clock_of(rank)
        sure = f", node {clock.node}'s clock ± {time_text(clock.unsure_ns)}" if clock else ""
        events += [
            _meta("process_name", rank, 0, {"name": f"rank {rank}"}),
            _meta("process_labels", rank, 0, {"labels": f"{trace.kind.value}{sure}"}),
            _meta("process_sort_index", rank, 0, {"sort_index": rank}),
        ]
    for rank, lane in used:
        events += [
            _meta("thread_name", rank, lanes[lane], {"name": lane}),
            _meta("thread_sort_index", rank, lanes[lane], {"sort_index": lanes[lane]}),
        ]
    return events


def _meta(name: str, rank: int, lane: int, args: Event) -> Event:
    return {"ph": "M", "name": name, "pid": rank, "tid": lane, "ts": 0, "args": args}


def _us(zero: int, moment: int) -> float:
    """Microseconds since the trace's start."""
    return (moment - zero) / 1000


def _slices(zero: int, lanes: dict[str, int], trace: Trace) -> list[Event]:
    """A slice a span; those of another node say how sure their times are."""
    clocks = [trace.provenance.clock_of(rank) for rank in range(trace.world_size)]
    events = [_slice(zero, lanes, span) for span in trace.spans]
    for event in events:
        if clock := clocks[event["pid"]]:
            event["args"]["clock_unsure_us"] = clock.unsure_ns / 1000
    return events


def _slice(zero: int, lanes: dict[str, int], span: Span) -> Event:
    args: Event = {"step": span.step, "index": span.index}
    optional: Event = {
        "bytes": span.bytes or None,
        "axis": span.axis,
        "peers": list(span.peers) or None,
        "seq": span.seq,
        "deps": list(span.deps) or None,
        "cpu_us": span.cpu_ns / 1000 or None,
        "queued_us": (span.t_start - span.t_post) / 1000 or None,
        "source": span.source or None,
    }
    args |= {key: value for key, value in optional.items() if value is not None}
    return {
        "ph": "X",
        "name": span.label,
        "cat": span.op,
        "pid": span.rank,
        "tid": lanes[span.lane],
        "ts": _us(zero, span.t_start),
        "dur": span.duration / 1000,
        "args": args,
    }


def _inside(zero: int, first: int, trace: Trace) -> list[Event]:
    """Slices of the messages inside tasks, from thread `first` on, and the names of the threads:
    slices of one thread may not cross."""
    events: list[Event] = []
    for rank, spans in enumerate(trace.by_rank):
        ends: list[int] = []  # of each thread, when its last message was over
        told = [(one, span) for span in spans for one in span.inside]
        for (op, axis, carried, size, start, done), span in sorted(told, key=lambda t: t[0][4:]):
            free = [row for row, end in enumerate(ends) if end <= start]
            row = free[0] if free else len(ends)
            if row == len(ends):
                name = Lane.INSIDE.value if not row else f"{Lane.INSIDE.value} {row + 1}"
                events.append(_meta("thread_name", rank, first + row, {"name": name}))
                order = {"sort_index": first + row}
                events.append(_meta("thread_sort_index", rank, first + row, order))
                ends.append(done)
            ends[row] = done
            args = {"step": span.step, "index": span.index, "axis": axis, "bytes": size}
            events.append(
                {
                    "ph": "X",
                    "name": f"{op} {carried}".strip(),
                    "cat": op,
                    "pid": rank,
                    "tid": first + row,
                    "ts": _us(zero, start),
                    "dur": (done - start) / 1000,
                    "args": args | {"task": span.label},
                }
            )
    return events


def _memory(zero: int, trace: Trace) -> list[Event]:
    """The live bytes of each rank after each span, where the trace knows them."""
    if not any(s.memory for s in trace.spans):
        return []
    return [
        {
            "ph": "C",
            "name": "memory",
            "pid": span.rank,
            "tid": 0,
            "ts": _us(zero, span.t_done),
            "args": {"bytes": span.memory},
        }
        for span in sorted(trace.spans, key=lambda s: s.t_done)
    ]


def _arrows(zero: int, lanes: dict[str, int], trace: Trace) -> list[Event]:
    """Flow events: from the last end to be posted to every other, or from a send to its receive."""
    events: list[Event] = []
    arrow = 0
    for ends in messages(trace):
        if len(ends) < 2 or not complete(ends):
            continue
        sends = [end for end in ends if end.op == Op.SEND]
        source = sends[0] if sends else last_arrival(ends)
        for end in ends:
            if end is source:
                continue
            arrow += 1
            events += [
                _end(zero, lanes, source, {"ph": "s", "id": arrow, "moment": source.t_start}),
                _end(zero, lanes, end, {"ph": "f", "id": arrow, "bp": "e", "moment": end.t_done}),
            ]
    return events


def _end(zero: int, lanes: dict[str, int], span: Span, mark: Event) -> Event:
    """One end of an arrow, inside its span: viewers bind it to the slice around that moment."""
    moment = min(mark.pop("moment"), max(span.t_start, span.t_done - 1))
    place = {"pid": span.rank, "tid": lanes[span.lane], "ts": _us(zero, moment)}
    return {"name": span.label, "cat": "message", **mark, **place}

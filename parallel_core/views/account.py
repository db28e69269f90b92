"""A trace in words: the sentences that stand where a picture cannot be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.lateness import BETWEEN, ITSELF
from parallel_core.program import Lane, Op
from parallel_core.trace import Span, Trace
from parallel_core.views.causes import GAP, Wait, message_ids, ordered, waits
from parallel_core.views.reading import Reading, Units
from parallel_core.views.stages import stages

_PLAIN = Units()


def wait_text(wait: Wait, rows: Sequence[Span], units: Units = _PLAIN) -> str:
    """The cause in words: "waits 3.10 ms for rank 2, which was in B layer1 mb0"."""
    least = wait.length * 0.02
    message = rows[wait.message].label
    whole = units.time(wait.length)
    parts = []
    if wait.late > least:
        parts.append((wait.late, _late_text(wait, rows)))
    if wait.queue > least:
        parts.append((wait.queue, "queued behind other messages"))
    if wait.wire > least:
        parts.append((wait.wire, "on the wire"))
    if len(parts) == 1 and wait.late > least:
        return f"waits {whole} {parts[0][1]}"
    if len(parts) == 1:
        return f"waits {whole} for {message}, {parts[0][1]}"
    return f"waits {whole} for {message}: " + "; ".join(f"{units.time(t)} {p}" for t, p in parts)


def _late_text(wait: Wait, rows: Sequence[Span]) -> str:
    text = f"for rank {rows[wait.culprit].rank}"
    if wait.root >= 0:
        last = rows[wait.root]
        text += f", which was {ITSELF}, in the end for rank {last.rank}"
        return f"{text}, which was in {last.label}{_notes(wait, last)}"
    if wait.doing == GAP:
        return f"{text}, which was {BETWEEN}"
    if wait.doing < 0:
        return text
    doing = rows[wait.doing]
    if doing.op == Op.WAIT:
        return f"{text}, which was {ITSELF}"
    return f"{text}, which was in {doing.label}{_notes(wait, doing)}"


def _notes(wait: Wait, doing: Span) -> str:
    notes = [f"{wait.slow} times its median"] if wait.slow else []
    # With fewer cores than ranks an op is often long because it had to wait for a core.
    share = doing.cpu_ns / max(1, doing.duration)
    if 0 < share < 0.7:
        notes.append(f"on a core for {math.floor(100 * share)} % of it")
    return f" ({', '.join(notes)})" if notes else ""


def account(
    trace: Trace, *, reading: Reading | None = None, found: Sequence[Wait] | None = None
) -> str:
    """The trace in a few sentences: makespan, who worked, the longest wait, memory, badge.

    `found` are its `waits`, where they are known already.
    """
    units = Units.of(reading or {}, stages(trace.spans).share)
    if not trace.spans:
        return f"Nothing has run yet. {trace.provenance.badge}"
    rows = ordered(trace)
    steps = len(trace.steps)
    ranks = f"{trace.world_size} rank{'s' * (trace.world_size != 1)}"
    parts = [
        f"{ranks}, {steps} step{'s' * (steps != 1)}, {units.time(trace.makespan)} "
        "from the first start to the last end.",
        _shares(trace),
        _longest(trace, rows, found, units),
    ]
    peak = max(rows, key=lambda span: span.memory)
    if peak.memory and units.microbatches:
        parts.append(f"At most {units.held(peak.memory)} in flight, on rank {peak.rank}.")
    elif peak.memory:
        parts.append(f"Memory peaks at {units.held(peak.memory)} on rank {peak.rank}.")
    return " ".join([part for part in parts if part] + [trace.provenance.badge])


def _shares(trace: Trace) -> str:
    """Who computed most of the time, and who least."""
    busy = [0.0] * trace.world_size
    for use in exposed(trace).ranks:
        busy[use.rank] = use.utilisation
    share = [round(100 * part) for part in busy]
    if trace.world_size == 1:
        return f"It computes {share[0]} % of the time."
    if min(share) == max(share):
        return f"Every rank computes {share[0]} % of the time."
    most = max(range(len(busy)), key=lambda rank: busy[rank])
    least = min(range(len(busy)), key=lambda rank: busy[rank])
    return (
        f"Busiest: rank {most}, computing {share[most]} % of the time; "
        f"idlest: rank {least}, {share[least]} %."
    )


def _longest(trace: Trace, rows: Sequence[Span], found: Sequence[Wait] | None, units: Units) -> str:
    every = waits(rows, message_ids(rows)) if found is None else found
    # A rank stands still where its compute lane waits; a waiting comm lane may be hidden.
    still = [wait for wait in every if rows[wait.row].lane == Lane.COMPUTE] or every
    if not still:
        return "No rank waits for another."
    wait = max(still, key=lambda wait: (wait.length, -wait.start))
    when = units.time(wait.start - trace.start, trace.makespan)
    return f"Longest wait: rank {rows[wait.row].rank} {wait_text(wait, rows, units)} (at {when})."

"""A trace as columns, one list a field, in the row order of `causes.ordered`.

Three rules keep them small: a column whose values are all equal is that one value; start, index,
memory and step are differences to the row before; words are numbers into `names`. Times are whole
nanoseconds since the trace's start.

A layer may stack several traces, its *decks*: each has ranks of its own, all one time axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parallel_core.analysis.exposed import exposed
from parallel_core.program import Lane
from parallel_core.trace import Span, Trace
from parallel_core.views import palette
from parallel_core.views.account import account
from parallel_core.views.causes import Wait, message_ids, ordered, waits
from parallel_core.views.reading import Bubbles, Reading, Units, bubble_text
from parallel_core.views.stages import Stages, ports, ramps, slots, stages
from parallel_core.views.svg_cells import SHORT

_POINTERS = ("row", "message", "culprit", "doing", "root")
"""Fields of a Wait that are rows; below 0 they are none."""


@dataclass(frozen=True, kw_only=True)
class Deck:
    """A trace and the first of its rows of ranks in the picture."""

    trace: Trace
    first: int = 0
    name: str = ""
    bubbles: Bubbles | None = None

    def as_data(self, reading: Reading) -> dict[str, Any]:
        """What the player says of it, ready for JSON."""
        trace, pipe = self.trace, stages(self.trace.spans)
        units = Units.of(reading, pipe.share)
        return {
            "name": self.name,
            "ranks": trace.world_size,
            "kind": trace.kind.value,
            "badge": trace.provenance.badge,
            "span": trace.makespan,
            "chunks": pipe.chunks,
            "ways": pipe.ways,
            "ramps": ramps(trace),
            "clocks": [
                [clock.node, clock.off_ns, clock.unsure_ns, list(clock.ranks)]
                for clock in trace.provenance.clocks
            ],
            "bubble": "" if self.bubbles is None else bubble_text(self.bubbles),
            **units.as_data(),
        }


def layer(decks: Sequence[Deck], reading: Reading, *, words: str = "") -> dict[str, Any]:
    """The traces of `decks` as columns; `words` stand in for the account of the only one."""
    rows: list[Span] = []
    ids: list[int] = []
    found: list[Wait] = []
    pipes: list[Stages] = []
    for deck in decks:
        own = ordered(_with_inside(_moved(deck)))
        own_ids, pipe = message_ids(own), stages(own)
        found += _shifted(waits(own, own_ids), len(rows))
        base = 1 + max(ids, default=-1)
        ids += [-1 if i < 0 else i + base for i in own_ids]
        rows += own
        pipes += [pipe] * len(own)
    start = 0 if len(decks) > 1 else decks[0].trace.start
    shown = _with_inside(decks[0].trace)
    return {
        "kind": shown.kind.value,
        "badge": shown.provenance.badge,
        "account": words or account(shown, reading=reading, found=found),
        "n": len(rows),
        "span": max(deck.trace.makespan for deck in decks),
        **_columns(rows, ids, pipes, start),
        "busy": _busy(decks),
        "waits": _wait_columns(found, start),
        "decks": [deck.as_data(reading) for deck in decks],
    }


def _busy(decks: Sequence[Deck]) -> list[float]:
    """Of each row of ranks the share of its deck's time in which it computed."""
    busy = [0.0] * max(deck.first + deck.trace.world_size for deck in decks)
    for deck in decks:
        for use in exposed(deck.trace).ranks:
            busy[deck.first + use.rank] = use.utilisation
    return busy


def _moved(deck: Deck) -> Trace:
    """The deck's trace on its own ranks, and from time 0 where it is not the only one."""
    if not deck.name:
        return deck.trace
    by, start = deck.first, deck.trace.start
    spans = (
        replace(
            s,
            rank=s.rank + by,
            peers=tuple(peer + by for peer in s.peers),
            t_post=s.t_post - start,
            t_start=s.t_start - start,
            t_done=s.t_done - start,
        )
        for s in deck.trace.spans
    )
    return replace(deck.trace, spans=tuple(spans), world_size=deck.trace.world_size + by)


def _with_inside(trace: Trace) -> Trace:
    """The messages inside tasks as rows of their own, on a thin lane; each points at its task."""
    if not any(span.inside for span in trace.spans):
        return trace
    inner = [
        Span(
            rank=span.rank,
            step=span.step,
            index=span.index,
            lane=Lane.INSIDE.value,
            op=op,
            where=carried.partition("[")[0],
            mb=span.mb,
            t_post=start,
            t_start=start,
            t_done=done,
            bytes=size,
            axis=axis,
            memory=span.memory,
        )
        for span in trace.spans
        for op, axis, carried, size, start, done in span.inside
    ]
    return replace(trace, spans=(*trace.spans, *inner))


def _shifted(found: Sequence[Wait], by: int) -> list[Wait]:
    if not by:
        return list(found)
    each = ({name: getattr(wait, name) for name in _POINTERS} for wait in found)
    moved = ({k: v + by if v >= 0 else v for k, v in pointers.items()} for pointers in each)
    return [replace(wait, **pointers) for wait, pointers in zip(found, moved, strict=True)]


def _columns(
    rows: Sequence[Span], ids: Sequence[int], pipes: Sequence[Stages], start: int
) -> dict[str, Any]:
    names = {key: _Names() for key in ("op", "where", "axis", "peers", "source")}
    lanes = _Names([Lane.COMPUTE.value])
    segments: list[list[int]] = []
    for span in rows:
        lane = lanes[span.lane]
        if not segments or segments[-1][:2] != [span.rank, lane]:
            segments.append([span.rank, lane, 0])
        segments[-1][2] += 1
    deps = _dependencies(rows)
    columns = {
        "op": [names["op"][span.op] for span in rows],
        "where": [names["where"][span.where] for span in rows],
        "axis": [names["axis"][span.axis or ""] for span in rows],
        "peers": [names["peers"][span.peers] for span in rows],
        "source": [names["source"][span.source] for span in rows],
        "mb": [-1 if span.mb is None else span.mb for span in rows],
        "message": list(ids),
        "bytes": [span.bytes for span in rows],
        "cpu": [span.cpu_ns for span in rows],
        "start": _steps(span.t_start - start for span in rows),
        "duration": [span.duration for span in rows],
        "lead": [span.t_start - span.t_post for span in rows],
        "index": _steps(span.index for span in rows),
        "memory": _steps(span.memory for span in rows),
        "step": _steps(span.step for span in rows),
        "chunk": [pipe.chunk(span) for pipe, span in zip(pipes, rows, strict=True)],
        "way": [pipe.way(span) for pipe, span in zip(pipes, rows, strict=True)],
        "dep_count": [len(back) for back in deps],
    }
    return {
        "lanes": lanes.words,
        "slots": slots(lanes.words),
        "ports": ports(lanes.words),
        "segments": segments,
        "ops": [[op, palette.phase_of(op), SHORT.get(op, op)] for op in names.pop("op").words],
        "names": {key: found.words for key, found in names.items()},
        "columns": {key: _flat(values) for key, values in columns.items()},
        "deps": [back for some in deps for back in some],
    }


class _Names:
    """Words and their numbers, in order of first use."""

    def __init__(self, words: Sequence[Any] = ()) -> None:
        self.numbers: dict[Any, int] = {word: number for number, word in enumerate(words)}

    def __getitem__(self, word: Any) -> int:
        return self.numbers.setdefault(word, len(self.numbers))

    @property
    def words(self) -> list[Any]:
        return list(self.numbers)


def _steps(values: Iterable[int]) -> list[int]:
    """Each value's difference to the one before."""
    out, last = [], 0
    for value in values:
        out.append(value - last)
        last = value
    return out


def _flat(values: list[int]) -> list[int] | int:
    if len(values) > 1 and all(value == values[0] for value in values):
        return values[0]
    return values


def _dependencies(rows: Sequence[Span]) -> list[list[int]]:
    """Per row how far back (in rows, negative is ahead) each of its inputs stands."""
    place = {
        (span.rank, span.step, span.index): row
        for row, span in enumerate(rows)
        if span.lane != Lane.INSIDE
    }
    found = []
    for row, span in enumerate(rows):
        inputs = (place.get((span.rank, span.step, index)) for index in span.deps)
        found.append([row - other for other in inputs if other is not None and other != row])
    return found


def _wait_columns(found: Sequence[Wait], start: int) -> dict[str, list[Any]]:
    names = ("row", "length", "late", "queue", "why", "message", "culprit", "doing", "slow", "root")
    columns = {name: [getattr(wait, name) for wait in found] for name in names}
    return columns | {"start": [wait.start - start for wait in found]}

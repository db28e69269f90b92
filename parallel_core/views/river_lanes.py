"""The lanes under a memory river: what computed, what was computed again, what was on the wire.

compute   F0 F1 F2 : R B2 : R B1 : ...     R, dotted: the forward, once more
messages  G  S  R                          between tasks, and inside them where a run stamped
host         o     o        f     f        copies out (o) and back (f)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from parallel_core.activations.saved import again_bytes
from parallel_core.outline import Held
from parallel_core.pieces import pieces
from parallel_core.plan import Plan, Recompute
from parallel_core.program import Instr, Lane, Op, Program
from parallel_core.quantities import bytes_text, time_text
from parallel_core.sizes import flops
from parallel_core.trace import Kind, Span, Trace
from parallel_core.views.marks import Mark, computed, draw, ms, origin_of, work

LETTERS = {Op.ALL_GATHER: "G", Op.REDUCE_SCATTER: "S", Op.ALL_REDUCE: "R", Op.ADD: "+"}
COPIES = {Op.OFFLOAD: "o", Op.FETCH: "f"}
AFTER_CORE = ("o", "gate", "up", "down")
"""Modules whose backward comes before that of attention's core."""


@dataclass(frozen=True)
class Again:
    """A forward run once more inside backward `index`, nanoseconds; `modelled` where only its
    length by FLOPs is known."""

    index: int
    start: int
    done: int
    words: str
    modelled: bool


@dataclass(frozen=True)
class Lanes:
    """Marks by row, with the rows' names from the top."""

    names: tuple[str, ...]
    solid: tuple[Mark, ...]
    modelled: tuple[Mark, ...]


def recomputed(
    plan: Plan, program: Program, trace: Trace, rank: int, *, readings: Sequence[Held] = ()
) -> list[Again]:
    """Where each backward of one step computes again, in order of time.

    A run's reading inside a backward was made the moment its recomputation ended. Under full
    recomputation it began with the backward; under selective its length is taken by FLOPs. With no
    reading, both ends are.
    """
    instrs, ended = program.ranks[rank], dict[int, int]()
    for row in sorted(readings, key=lambda row: row.t):
        ended.setdefault(row.index, row.t)
    return [
        found
        for span in sorted(trace.by_rank[rank], key=lambda span: span.t_start)
        if span.op in (Op.B, Op.I)
        and (found := _again(plan, instrs[span.index], span, ended.get(span.index)))
    ]


def _again(plan: Plan, instr: Instr, span: Span, ended: int | None) -> Again | None:
    piece = next((p for p in pieces(plan) if p.name == span.where), None)
    units = [u for u in (piece.units if piece else ()) if plan.recompute_in(u) != Recompute.NONE]
    if not units:
        return None
    unit = units[0]
    full = plan.recompute_in(unit) == Recompute.FULL
    before, share = _shares(plan, instr, full=full)
    seen = ended is not None and ended < span.t_done
    done = ended if seen and ended else span.t_start + int((before + share) * span.duration)
    start = span.t_start if full else max(done - int(share * span.duration), span.t_start)
    block = "the layer" if full else "the core of attention"
    more = (
        f"up to {bytes_text(size)} beyond what was kept, "
        if (size := again_bytes(plan, unit))
        else ""
    )
    words = f"{block} of {span.where} again: {more}{time_text(done - start)}"
    return Again(span.index, start, done, words, modelled=not (seen and full))


def _shares(plan: Plan, instr: Instr, *, full: bool) -> tuple[float, float]:
    """By FLOPs: the part of a backward that precedes its recomputation, and the part that is it."""
    plain = plan.but(recompute=Recompute.NONE, recompute_every=1)
    whole, once = flops(plan)(instr), flops(plain)(instr)
    if not whole:
        return 0.0, 0.0
    piece = next(p for p in pieces(plan) if p.name == instr.where)
    specs = [s for s in piece.specs if s.name.split(".")[-2] in AFTER_CORE and len(s.shape) == 2]
    tokens = plan.rows_per_microbatch * plan.seq
    before = 0.0 if full else 4.0 * tokens * sum(spec.numel for spec in specs) / whole
    return before, 1 - once / whole


def lanes(trace: Trace, rank: int, again: Sequence[Again]) -> Lanes:
    """Every mark of the rank's step."""
    origin = origin_of(trace, rank)
    row = trace.by_rank[rank]
    messages = list(_messages(row, origin))
    copies = [_copy(span, origin) for span in row if span.lane == Lane.HOST]
    names = ["compute", *(["messages"] if messages else []), *(["host copies"] if copies else [])]
    at = {name: float(position) for position, name in enumerate(names)}
    solid = [*_tasks(trace, rank, again)]
    solid += [_in_row(mark, at["messages"]) for mark in messages]
    solid += [_in_row(mark, at["host copies"]) for mark in copies]
    pale = [_mark(a, origin) for a in again if a.modelled]
    solid += [_mark(a, origin) for a in again if not a.modelled]
    return Lanes(tuple(names), tuple(solid), tuple(pale))


def _in_row(mark: Mark, row: float) -> Mark:
    return Mark(row, mark.left, mark.right, mark.look, mark.hover, mark.label)


def _tasks(trace: Trace, rank: int, again: Sequence[Again]) -> Iterator[Mark]:
    """The compute lane; a backward that begins with a recomputation is drawn from its end on."""
    origin = origin_of(trace, rank)
    first = {a.index: a for a in again if not a.modelled or trace.kind is Kind.MODELLED}
    for span in computed(trace, rank):
        mark = work(span, 0, origin)
        found = first.get(span.index)
        left = ms(found.done, origin) if found and found.start == span.t_start else mark.left
        yield Mark(0, min(left, mark.right), mark.right, mark.look, mark.hover, mark.label)


def _mark(again: Again, origin: int) -> Mark:
    left, right = ms(again.start, origin), ms(again.done, origin)
    how = " (its length by FLOPs)" if again.modelled else ""
    return Mark(0, left, right, "recompute", again.words + how, "R")


def _messages(row: Sequence[Span], origin: int) -> Iterator[Mark]:
    """Messages of their own, and those that tasks hold inside."""
    for span in row:
        if span.lane == Lane.COMM:
            look = "other" if span.op == Op.ADD else "collective"
            letter = "" if span.where in ("loss", "tally") else LETTERS.get(Op(span.op), "")
            hover = f"{span.label}: {time_text(span.duration)}, {bytes_text(span.bytes)} handed"
            left, right = ms(span.t_start, origin), ms(span.t_done, origin)
            yield Mark(0, left, right, look, f"{hover} over", letter)
        for op, axis, name, size, start, done in span.inside:
            hover = f"inside {span.label}: {op} @{axis} {name}, {bytes_text(size)} handed over"
            letter = LETTERS.get(Op(op), "")
            yield Mark(0, ms(start, origin), ms(done, origin), "collective", hover, letter)


def _copy(span: Span, origin: int) -> Mark:
    way = "to the host" if span.op == Op.OFFLOAD else "back to the device"
    hover = f"what {span.where} kept, {way}: {bytes_text(span.bytes)}, {time_text(span.duration)}"
    letter = COPIES[Op(span.op)]
    return Mark(0, ms(span.t_start, origin), ms(span.t_done, origin), "P2P", hover, letter)


def draw_lanes(figure: go.Figure, shown: Lanes, kind: Kind, dark: bool) -> None:
    """The marks, on the figure's second y axis."""
    before = len(figure.data)
    draw(figure, shown.solid, kind, dark)
    if shown.modelled:
        draw(figure, shown.modelled, Kind.MODELLED, dark)
    for trace in figure.data[before:]:
        trace.update(yaxis="y2", showlegend=False)

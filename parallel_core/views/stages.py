"""What a trace shows of a pipeline: whose stages are whose, which way microbatches go, the ramps.

    rank 0   F0 F1 F2 B0 F3 B1 .. B2 B3        warm-up   until the last rank has begun
    rank 1   .. F0 F1 B0 F2 B1 F3 B2 B3        steady    while all ranks are between their
    rank 2   .. .. F0 B0 F1 B1 F2 B2 .. B3               first and last task
             warm-up | steady     | drain      drain     from when the first rank has ended

A *chunk* is a stage's place among the stages of its rank. Where every microbatch visits only one
of a rank's stages the pipeline runs both ways (DualPipe): a *way* is 0 for those that enter at the
lowest rank, 1 for the others. A trace without stages is no pipeline.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from parallel_core.program import Lane, Op
from parallel_core.trace import Span, Trace

TASKS = frozenset({Op.F.value, Op.B.value, Op.I.value, Op.W.value})
PORTS = {
    Lane.TO_NEXT.value: "out",
    Lane.TO_PREV.value: "out",
    Lane.OUT.value: "out",
    Lane.FROM_NEXT.value: "in",
    Lane.FROM_PREV.value: "in",
    Lane.IN.value: "in",
}
"""Lane -> the thin line it is drawn on: what leaves a rank above what comes in."""

_PIPES = frozenset({Lane.TO_NEXT, Lane.TO_PREV, Lane.FROM_NEXT, Lane.FROM_PREV})


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The pipeline of a trace. `of` holds a rank's stages, ascending; `ways` is 1 or 2."""

    of: dict[int, list[int]] = field(default_factory=dict)
    entries: dict[int, int] = field(default_factory=dict)  # microbatch -> where it enters
    ways: int = 1
    share: float = 1.0  # of a microbatch that one stage of a rank keeps

    @property
    def chunks(self) -> int:
        """Stages on the fullest rank; 0 without a pipeline."""
        return max(map(len, self.of.values()), default=0)

    def chunk(self, span: Span) -> int:
        """The place of the span's stage on its rank; -1 for what is no task."""
        if span.op not in TASKS or not self.of:
            return -1
        stage, held = stage_of(span.where), self.of.get(span.rank, [])
        return held.index(stage) if stage in held else -1

    def way(self, span: Span) -> int:
        """The way the span's microbatch goes; -1 for what is no task."""
        if span.op not in TASKS or span.mb is None or not self.of:
            return -1
        first = min(self.entries.values(), default=0)
        return int(self.ways == 2 and self.entries.get(span.mb, first) != first)


@lru_cache(maxsize=4096)
def stage_of(where: str) -> int | None:
    """The number in `stage3`; None for any other place."""
    found = re.fullmatch(r"stage(\d+)", where)
    return int(found[1]) if found else None


def stages(spans: Iterable[Span]) -> Stages:
    """The pipeline that `spans` run; one without stages where they run none."""
    of: dict[int, set[int]] = defaultdict(set)
    visits: dict[tuple[int, int], set[int]] = defaultdict(set)
    entries: dict[int, int] = {}
    for span in spans:
        stage = stage_of(span.where) if span.op in TASKS else None
        if stage is None or span.mb is None:
            continue
        of[span.rank].add(stage)
        if span.op == Op.F:
            visits[span.rank, span.mb].add(stage)
            if stage == 0:
                entries[span.mb] = min(span.rank, entries.get(span.mb, span.rank))
    several = any(len(held) > 1 for held in of.values())
    both = several and all(len(seen) == 1 for seen in visits.values())
    parts = sum(map(len, visits.values()))
    return Stages(
        of={rank: sorted(held) for rank, held in of.items()},
        entries=entries,
        ways=2 if both else 1,
        share=len(visits) / parts if parts else 1.0,
    )


def slots(lanes: Sequence[str]) -> list[int]:
    """Per lane the line it is drawn on: 0 is the compute row, the lanes of a port share one."""
    lines = {Lane.COMPUTE.value: 0}
    kept = {lane: PORTS.get(lane, lane) for lane in lanes if lane != Lane.COMPUTE}
    for line in sorted(set(kept.values()), key=lambda line: (line == "in", line == "out", line)):
        lines[line] = len(lines)
    return [lines[kept.get(lane, lane)] for lane in lanes]


def ports(lanes: Sequence[str]) -> list[int]:
    """The lines of `slots` that several lanes of a pipeline may share: only wires stand there."""
    return sorted({slot for lane, slot in zip(lanes, slots(lanes), strict=True) if lane in _PIPES})


def ramps(trace: Trace) -> list[list[int]]:
    """Per step when it begins, is steady, drains and ends, nanoseconds since the trace's start.

    Empty where the trace is no pipeline. With `drain` before `steady`, it never was steady.
    """
    found: dict[int, dict[int, list[int]]] = defaultdict(dict)
    for span in trace.spans:
        if span.op in TASKS and stage_of(span.where) is not None:
            ends = found[span.step].setdefault(span.rank, [span.t_start, span.t_done])
            ends[:] = min(ends[0], span.t_start), max(ends[1], span.t_done)
    out = []
    for _, ranks in sorted(found.items()):
        first, last = zip(*ranks.values(), strict=True)
        marks = (min(first), max(first), min(last), max(last))
        out.append([mark - trace.start for mark in marks])
    return out

"""Two traces side by side: what got slower, by how much, and what it did to the whole.

Ops are aligned by (rank, op, where, microbatch). Over the steps an op ran, its median stands for
it: one slow step does not decide. What only one trace has is listed, not dropped.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median

from parallel_core.analysis.exposed import exposed, without_warmup
from parallel_core.program import Op
from parallel_core.quantities import time_text
from parallel_core.trace import Trace

Name = tuple[int, str, str, int | None]
"""(rank, op, where, mb): what makes two spans of different steps the same piece of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpMedian:
    """One op of one rank: how often it ran and its median duration, nanoseconds."""

    rank: int
    op: str
    where: str
    mb: int | None
    count: int
    median_ns: float

    @property
    def label(self) -> str:
        """Rank and op in words: `rank 0 B layer1 mb0`."""
        mb = "" if self.mb is None else f"mb{self.mb}"
        return " ".join(p for p in (f"rank {self.rank}", self.op, self.where, mb) if p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One aligned op: before and after; None where a trace does not have it."""

    before: OpMedian | None
    after: OpMedian | None

    @property
    def label(self) -> str:
        """Rank and op in words."""
        which = self.before or self.after
        return which.label if which else ""

    @property
    def ratio(self) -> float | None:
        """After over before; None where one is missing or took no time."""
        if self.before is None or self.after is None or self.before.median_ns == 0:
            return None
        return self.after.median_ns / self.before.median_ns

    @property
    def lost_ns(self) -> float:
        """How much longer it takes in one step, nanoseconds; negative where it got faster."""
        before = self.before.median_ns if self.before else 0.0
        return (self.after.median_ns if self.after else 0.0) - before


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One trace in four numbers; per step, except the peak (bytes, maximum over ranks)."""

    title: str
    steps: int
    step_ns: float
    exposed_ns: float
    comm_ns: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two traces, `before` and `after`; rows with what lost most time first."""

    before: Side
    after: Side
    rows: tuple[Row, ...]

    @property
    def slower(self) -> tuple[Row, ...]:
        """Work (not waiting) that both have and that takes longer now, the worst first."""
        return tuple(
            row
            for row in self.rows
            if row.ratio is not None and row.ratio > 1 and row.after and row.after.op != Op.WAIT
        )

    @property
    def account(self) -> str:
        """The difference in one sentence."""
        then, now = self.before.step_ns, self.after.step_ns
        turn = f"{now / then:.2f} times" if then else "not comparable with"
        text = f"a step takes {time_text(now)}, {turn} the {time_text(then)} of before"
        if self.slower:
            worst = self.slower[0]
            text += f"; most was lost in {worst.label}, +{time_text(worst.lost_ns)}"
        return text


def medians(trace: Trace, *, warmup: int = 0) -> dict[Name, OpMedian]:
    """Per (rank, op, where, mb): count and median duration, the first `warmup` steps left out."""
    found: dict[Name, list[int]] = defaultdict(list)
    for span in without_warmup(trace, warmup).spans:
        found[span.rank, span.op, span.where, span.mb].append(span.duration)
    return {
        (rank, op, where, mb): OpMedian(
            rank=rank, op=op, where=where, mb=mb, count=len(times), median_ns=median(times)
        )
        for (rank, op, where, mb), times in found.items()
    }


def compare(before: Trace, after: Trace, *, warmup: int = 0) -> Comparison:
    """Both traces aligned by work, the first `warmup` steps of each left out."""
    old, new = medians(before, warmup=warmup), medians(after, warmup=warmup)
    rows = [Row(before=old.get(name), after=new.get(name)) for name in {**old, **new}]
    return Comparison(
        before=_side(before, warmup),
        after=_side(after, warmup),
        rows=tuple(sorted(rows, key=lambda row: -row.lost_ns)),
    )


def _side(trace: Trace, warmup: int) -> Side:
    kept = without_warmup(trace, warmup)
    steps = max(len(kept.steps), 1)
    use = exposed(kept)
    return Side(
        title=trace.provenance.title or trace.provenance.badge,
        steps=len(kept.steps),
        step_ns=kept.makespan / steps,
        exposed_ns=use.exposed_ns / steps,
        comm_ns=use.comm_ns / steps,
        peak_bytes=max((s.memory for s in trace.spans), default=0),
    )

"""Messages inside tasks: for how long the task stood still for them.

    F layer1   |==F==|#all_gather#|===F===|#reduce_scatter#|    stood still for both
    F layer1   |==F======F====F====|                            and for neither: work went on
                  |~shift~|~shift~|

A trace says when a message inside a task began and ended, and not whether work went on beside it.

    on paper   a task's work is known (`cpu_ns`): whatever else it lasts, it stood still
    in a run   the program of its plan says beside which messages there is work (Message.under);
               where no plan explains a message, a shift alone has work beside it, as in a ring
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from parallel_core.cases import program_of
from parallel_core.plan import Plan
from parallel_core.program import Op, Program
from parallel_core.trace import Kind, Span, Trace


class Held:
    """Tells of each span of a trace when it stood still for a message inside it."""

    def __init__(self, trace: Trace) -> None:
        self.on_paper = trace.kind in (Kind.MODELLED, Kind.REPLAYED)
        some = any(span.inside for span in trace.spans) and not self.on_paper
        plan = tuple(sorted(trace.provenance.plan.items()))
        self.program = _program(plan) if some and plan else None

    def __call__(self, span: Span) -> Iterator[tuple[int, int]]:
        """From when to when, nanoseconds, message by message.

        On paper the sum alone is exact where work goes on beside a message: each message then
        counts with the same share of its time, its last.
        """
        if not span.inside:
            return
        if self.on_paper:
            under_way = sum(done - start for *_, start, done in span.inside)
            share = min(1.0, (span.duration - span.cpu_ns) / max(1, under_way))
            shares = [share] * len(span.inside)
        else:
            shares = [float(not beside) for beside in self._beside(span)]
        for (*_, start, done), share in zip(span.inside, shares, strict=True):
            if share > 0:
                yield done - round(share * (done - start)), done

    def _beside(self, span: Span) -> list[bool]:
        """Of each message inside whether work goes on beside it."""
        rows = () if self.program is None else self.program.ranks[span.rank : span.rank + 1]
        for instr in (row[span.index] for row in rows if span.index < len(row)):
            if instr.op == span.op and len(instr.inner) == len(span.inside):
                return [message.under > 0 for message in instr.inner]
        return [op == Op.SHIFT for op, *_ in span.inside]


@lru_cache(maxsize=8)
def _program(plan: tuple[tuple[str, object], ...]) -> Program | None:
    """The program of a plan's fields; None where a stranger's file names what is no plan."""
    try:
        return program_of(Plan.of(**dict(plan)))
    except (ValueError, TypeError, KeyError):
        return None

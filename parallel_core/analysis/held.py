"""Messages inside tasks: for how long the task stood still for them.

    F layer1   |==F==|#all_gather#|===F===|#reduce_scatter#|    stood still for both
    F layer1   |==F======F====F====|                            and for neither: work went on
                  |~shift~|~shift~|

A trace says when a message inside a task began and ended, and not whether work went on beside it.

    on paper   a task's work is known (`cpu_ns`): whatever else it lasts, it stood still
    in a run   its plan says beside which messages of a task there is work (inner_shares.py);
               where no plan explains a message, a shift alone has work beside it, as in a ring
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from parallel_core import inner_shares
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.trace import Kind, Span, Trace


class Held:
    """Tells of each span of a trace when it stood still for a message inside it."""

    def __init__(self, trace: Trace) -> None:
        self.on_paper = trace.kind in (Kind.MODELLED, Kind.REPLAYED)
        some = any(span.inside for span in trace.spans) and not self.on_paper
        fields = tuple(sorted(trace.provenance.plan.items()))
        self.plan = _plan(fields) if some and fields else None

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
        if self.plan is not None and 0 <= span.rank < self.plan.world_size:
            place = self.plan.mesh.coordinate(span.rank).get("cp", 0)
            beside = _of_task(self.plan, span.where, span.op == Op.F, place)
            if len(beside) == len(span.inside):
                return list(beside)
        return [op == Op.SHIFT for op, *_ in span.inside]


@lru_cache(maxsize=1024)
def _of_task(plan: Plan, where: str, forward: bool, place: int) -> tuple[bool, ...]:
    """Beside which messages of a forward or a backward there is work; none where none is known."""
    for piece in pieces(plan):
        if piece.name == where:
            stops = inner_shares.task(plan, piece.units, forward=forward, place=place)
            return tuple(under > 0 for *_, under in stops)
    return ()


@lru_cache(maxsize=8)
def _plan(fields: tuple[tuple[str, object], ...]) -> Plan | None:
    """The plan of these fields; None where a stranger's file names what is no plan."""
    try:
        return Plan.of(**dict(fields))
    except (ValueError, TypeError, KeyError):
        return None

"""A trace, indexed for the questions a standstill asks."""

from __future__ import annotations

from collections import defaultdict

from parallel_core.analysis.lateness import Meeting, Work
from parallel_core.analysis.slots import TASKS
from parallel_core.analysis.slowness import Slowness
from parallel_core.meetings import complete, messages
from parallel_core.numbered import number
from parallel_core.program import Program
from parallel_core.trace import Span, Trace


class Record:
    """Who met whom, what needed what, when steps were over, who worked where.

    `told` says whether it is known what instructions need; `over` gives the last end of a step,
    `places` the stages or layers (`where`) a rank computes in a step.
    """

    def __init__(self, trace: Trace, program: Program | None = None) -> None:
        self.begin, self.end = trace.start, trace.start + trace.makespan
        recorded = any(span.deps for span in trace.spans)
        self._deps = _needs(program) if program is not None and not recorded else None
        self.told = recorded or self._deps is not None
        met = (Meeting.of(ends) for ends in messages(trace) if complete(ends))
        self._meetings = {id(end): meeting for meeting in met for end in meeting.ends}
        self.slowness = Slowness(trace.spans)
        self.work = [Work(row) for row in trace.by_rank]
        self._at: list[dict[tuple[int, int], Span]] = []
        self.over: dict[int, int] = defaultdict(int)
        self.places: dict[tuple[int, int], set[str]] = defaultdict(set)
        for row in trace.by_rank:
            self._at.append({(span.step, span.index): span for span in row})
            for span in row:
                self.over[span.step] = max(self.over[span.step], span.t_done)
                if span.op in TASKS:
                    self.places[span.rank, span.step].add(span.where)

    def meeting(self, message: Span) -> Meeting | None:
        """The meeting of a message; None where an end is missing."""
        return self._meetings.get(id(message))

    def inputs(self, span: Span) -> list[Span]:
        """The spans of its rank whose results it needs, as far as they are recorded."""
        indices = span.deps
        if self._deps is not None:
            indices = self._deps.get((span.rank, span.index), ())
        at, step = self._at[span.rank], span.step
        return [at[step, index] for index in indices if (step, index) in at]


def _needs(program: Program) -> dict[tuple[int, int], tuple[int, ...]]:
    """(rank, index) -> the indices on that rank whose results it reads."""
    work = number(program)
    first = work.first_of_ranks()
    return {
        (rank, at - first[rank]): work.deps(at, first[rank]) for at, rank in enumerate(work.rank)
    }

"""Who is slow: how long a rank takes for an op, against the median of the ranks that do the same.

The same is the same op in the same place (layer, stage) where several ranks have that place, and
the same op anywhere where each rank has places of its own, as in a pipeline.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

from parallel_core.analysis.slots import Kind, kind_of
from parallel_core.program import Lane
from parallel_core.trace import Span

LASTING = 1.2
"""A rank is a straggler if it takes this many times the others' median, in most of its places."""

ONCE = 1.5
"""So is one whose single op took this many times that median."""

_Place = tuple[str, str]
Number = TypeVar("Number", int, float)


class Slowness:
    """The medians of every op over ranks; of two in the middle the lower one is the median."""

    def __init__(self, spans: Iterable[Span]) -> None:
        by_place: dict[_Place, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        by_op: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for span in spans:
            if span.lane == Lane.COMPUTE and kind_of(span) is Kind.WORK:
                by_place[span.op, span.where][span.rank].append(span.duration)
        for (op, _), ranks in by_place.items():
            for rank, times in ranks.items():
                by_op[op][rank] += times
        anywhere = {op: _medians(ranks) for op, ranks in by_op.items()}
        self._of = {
            (op, where): _medians(ranks) if len(ranks) > 1 else anywhere[op]
            for (op, where), ranks in by_place.items()
        }
        ratios: dict[tuple[str, int], list[float]] = defaultdict(list)
        for (op, where), ranks in by_place.items():
            own, typical = self._of[op, where]
            for rank in ranks:
                ratios[op, rank].append(own[rank] / typical)
        self._lasting = {place: round(_median(each), 2) for place, each in ratios.items()}

    def times(self, span: Span) -> float:
        """How many times the median `span` took, or its rank takes; 0 if it is no straggler."""
        if (span.op, span.where) not in self._of or kind_of(span) is not Kind.WORK:
            return 0.0  # a message waits for its peer: its length says nothing about its rank
        lasting = self._lasting[span.op, span.rank]
        once = round(span.duration / self._of[span.op, span.where][1], 2)
        return lasting if lasting >= LASTING else once if once >= ONCE else 0.0


def _medians(ranks: dict[int, list[int]]) -> tuple[dict[int, int], int]:
    """Per rank its median, and the median of those, in nanoseconds and at least 1."""
    own = {rank: _median(times) for rank, times in ranks.items()}
    return own, max(1, _median(list(own.values())))


def _median(values: Sequence[Number]) -> Number:
    return sorted(values)[(len(values) - 1) // 2]

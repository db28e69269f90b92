"""How many bytes of each kind a rank holds at each moment of a step, as a plan predicts them.

A moment is the begin or the end of a span. outline.py counts the same after every instruction; a
test holds the two equal. Which tensors they are, block by block: river_alive.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parallel_core.effects import effects
from parallel_core.ledger import predicted_memory
from parallel_core.outline import FOLLOWED, KINDS
from parallel_core.plan import Plan
from parallel_core.program import Op, Program
from parallel_core.trace import Kind, Span, Trace


@dataclass(frozen=True)
class Moment:
    """What exists from `time` (nanoseconds) on: instruction `at` has just begun, or is `over`.

    `bytes` by kind, those of outline.FOLLOWED.
    """

    at: int
    time: int
    label: str
    over: bool
    bytes: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of all kinds on the device."""
        return sum(self.bytes.get(kind, 0) for kind in KINDS)

    @property
    def words(self) -> str:
        """When that is, in words."""
        return f"{'after' if self.over else 'during'} {self.label}"


def moments(plan: Plan, program: Program, trace: Trace, rank: int) -> list[Moment]:
    """The rank's memory at each begin and end of a span of one step, in order of time.

    `program` is the plan's. `trace` (modelled, measured or replayed) gives the order and the times,
    the plan the bytes. A modelled step stands for a later one than the first, whose update has yet
    to make the optimizer's moments.
    """
    instrs, effect = program.ranks[rank], effects(plan)
    first = trace.kind is not Kind.MODELLED and 0 in trace.steps
    before = predicted_memory(plan, stepped=not first)
    held = dict.fromkeys(FOLLOWED, 0) | {kind: sizes[rank] for kind, sizes in before.items()}
    settled = predicted_memory(plan)["optimizer"][rank]
    found = []
    for span, over in events(trace, rank):
        instr = instrs[span.index]
        does = effect(instr)
        for kind, size in (does.freed if over else does.made).items():
            held[kind] += -size if over else size
        if instr.op == Op.O:
            held["optimizer"] = settled
        time = span.t_done if over else span.t_start
        found.append(Moment(span.index, time, instr.label, over, dict(held)))
    return found


def events(trace: Trace, rank: int) -> list[tuple[Span, bool]]:
    """(span, whether it is over) for each begin and end of a span of the rank.

    At one time: first what ends, then in the program's order what takes no time at all (nobody
    can depend on it before), then what begins.
    """
    keyed = []
    for span in trace.by_rank[rank]:
        begins, ends = (2, 0) if span.duration else (1, 1)
        keyed.append(((span.t_start, begins, span.index, 0), span, False))
        keyed.append(((span.t_done, ends, span.index, 1), span, True))
    return [(span, over) for _, span, over in sorted(keyed, key=lambda event: event[0])]


def peak(found: Iterable[Moment]) -> Moment:
    """The first moment with the most bytes on the device. Raises ValueError where there is none."""
    return max(found, key=lambda moment: moment.total)

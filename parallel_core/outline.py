"""The memory of a step over time: bytes of weights, gradients and optimizer state on each rank.

    resident   buffers that stay: what ledger.predicted_memory counts
    +          values with memory of their own, from the start of the instruction that writes them
               to the end of the one that frees them: full, gpart, from stage 2 on grad and tie,
               and what forwards keep: saved, held, back
    +          what a backward computes again, while it runs

`memory_outline` follows one trace, `agreement` lays measured bytes beside it (peak.py: the most
that any timing allows). Activations between the units and message buffers are left out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from parallel_core.effects import Effect, Routed, effects
from parallel_core.ledger import predicted_memory
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Op, Program
from parallel_core.trace import Span, Trace

STATE = ("params", "grads", "optimizer")
"""What there is between steps as well."""

KINDS = (*STATE, "activations")
"""What lies on the device, in the order in which a Held names it."""

FOLLOWED = (*KINDS, "host")
"""And what offloading has put into host memory."""


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes on a rank after instruction `index` of a step, at time t (nanoseconds)."""

    rank: int
    step: int
    index: int
    t: int
    params: int
    grads: int
    optimizer: int
    activations: int = 0
    host: int = 0

    def __getitem__(self, kind: str) -> int:
        return int(getattr(self, kind))


def memory_outline(
    plan: Plan, program: Program, trace: Trace, routed: Routed | None = None
) -> tuple[Held, ...]:
    """Bytes by kind after every instruction of a simulated, replayed or measured trace, in time.

    Step 0 is the first one: its update makes the optimizer's moments.
    """
    rows: list[Held] = []
    effect = effects(plan)
    for rank in range(trace.world_size):
        for step in trace.steps:
            effect = effects(plan, routed(rank, step)) if routed else effect
            spans = [s for s in trace.by_rank[rank] if s.step == step]
            rows += _rank_outline(_Level(plan, rank, step), program.ranks[rank], spans, effect)
    return tuple(rows)


class _Level:
    """Bytes by kind now, on one rank in one step."""

    def __init__(self, plan: Plan, rank: int, step: int) -> None:
        self.rank, self.step = rank, step
        before = predicted_memory(plan, stepped=step > 0)
        after = predicted_memory(plan)["optimizer"][rank]
        self.now = dict.fromkeys(FOLLOWED, 0)
        self.now |= {kind: sizes[rank] for kind, sizes in before.items()}
        self._moments = after - self.now["optimizer"]

    def begin(self, instr: Instr, effect: Effect) -> None:
        """An instruction's own memory is made at its start."""
        for kind, size in effect.made.items():
            self.now[kind] += size
        if instr.op == Op.O:
            self.now["optimizer"] += self._moments
            self._moments = 0

    def end(self, index: int, t: int, effect: Effect) -> Held:
        """At its end it lets go of what it frees."""
        for kind, size in effect.freed.items():
            self.now[kind] -= size
        return Held(self.rank, self.step, index, t, *(self.now[kind] for kind in FOLLOWED))


def _rank_outline(
    level: _Level, instrs: Sequence[Instr], spans: Sequence[Span], of: Callable[[Instr], Effect]
) -> Iterator[Held]:
    lanes = [[s for s in spans if s.lane == lane] for lane in Lane]
    events = [[(t, s) for s in lane for t in (s.t_start, s.t_done)] for lane in lanes]
    waiting = [(lane, 0) for lane in events if lane]
    while waiting:
        # at one moment what ends comes before what starts; a lane's own order is kept
        lane, at = min(waiting, key=lambda head: (head[0][head[1]][0], head[1] % 2 == 0))
        waiting.remove((lane, at))
        waiting += [(lane, at + 1)] if at + 1 < len(lane) else []
        t, span = lane[at]
        effect = of(instrs[span.index])
        if at % 2 == 0:
            level.begin(instrs[span.index], effect)
        else:
            yield level.end(span.index, t, effect)


@dataclass(frozen=True)
class Agreement:
    """Measured bytes beside the outline, after every instruction of the compute lanes.

    Where a message that makes or frees memory is under way at that moment (`open_`), the outline
    says what there is before it, inside and after it, and the measured bytes must be one of these.
    `differences` are one sentence each.
    """

    exact: int
    open_: int
    differences: tuple[str, ...]


def agreement(
    plan: Plan,
    program: Program,
    trace: Trace,
    gauge: Sequence[Held],
    *,
    routed: Routed | None = None,
) -> Agreement:
    """Are the measured bytes of `gauge` those that the outline of the same run says? What experts
    keep follows from where the run's routers sent their tokens: `routed` says it."""
    effect = effects(plan)
    measured = {(row.rank, row.step, row.index): row for row in gauge}
    readings: list[_Reading] = []
    for rank in range(trace.world_size):
        for step in trace.steps:
            effect = effects(plan, routed(rank, step)) if routed else effect
            spans = [s for s in trace.by_rank[rank] if s.step == step]
            rows = [measured.get((rank, step, s.index)) for s in spans]
            whole = [row for row in rows if row is not None]
            if len(whole) == len(spans):  # else a step cut short by a live view
                instrs = [program.ranks[rank][s.index] for s in spans]
                steps = _Steps(spans, whole, instrs, [effect(instr) for instr in instrs])
                readings += steps.readings(_Level(plan, rank, step))
    exact = sum(reading.settled for reading in readings)
    return Agreement(exact, len(readings) - exact, tuple(s for r in readings for s in r.wrong()))


@dataclass(frozen=True)
class _Reading:
    """Bytes by kind after one instruction: as measured, and what the outline allows."""

    at: str
    measured: Held
    allowed: dict[str, set[int]]

    @property
    def settled(self) -> bool:
        """Whether the outline has one number for each kind."""
        return all(len(sizes) == 1 for sizes in self.allowed.values())

    def wrong(self) -> Iterator[str]:
        """A sentence for each kind that is none of what is allowed."""
        for kind, sizes in self.allowed.items():
            # a copy to or from the host is made tensor by tensor: a reading may fall in between
            between = kind == "activations" and min(sizes) <= self.measured[kind] <= max(sizes)
            if self.measured[kind] not in sizes and not between:
                says = " or ".join(f"{size:,}" for size in sorted(sizes))
                found = f"{self.measured[kind]:,} bytes of {kind}"
                yield f"{self.at}: {found}, where the outline says {says}"


class _Steps:
    """One rank's spans of one step, in order, with what was measured after each."""

    def __init__(
        self,
        spans: Sequence[Span],
        rows: Sequence[Held],
        instrs: Sequence[Instr],
        effects: Sequence[Effect],
    ) -> None:
        self._spans, self._rows, self._instrs, self._effects = spans, rows, instrs, effects
        # each kind is made and freed by one lane beside the compute lane, so its ends are in order
        self._beside = {kind: _Beside.of(kind, spans, rows, effects) for kind in KINDS}

    def readings(self, level: _Level) -> Iterator[_Reading]:
        """One after each instruction of the compute lane."""
        for i, span in enumerate(self._spans):
            if span.lane != Lane.COMPUTE:
                continue
            row, instr = self._rows[i], self._instrs[i]
            level.begin(instr, self._effects[i])
            now = level.end(span.index, row.t, self._effects[i])
            allowed = {k: {now[k] + more for more in self._others(i, k)} for k in KINDS}
            yield _Reading(f"rank {row.rank}, step {row.step}, after {instr.label}", row, allowed)

    def _others(self, i: int, kind: str) -> set[int]:
        """What the other lane may hold at the reading after span i."""
        return self._beside[kind].held(self._spans[i].t_done, self._rows[i].t)


@dataclass(frozen=True)
class _Beside:
    """What of one kind another lane makes and frees: when, how much, and what is there then."""

    starts: list[int]
    ends: list[int]
    made: list[int]
    nets: list[int]

    @classmethod
    def of(
        cls, kind: str, spans: Sequence[Span], rows: Sequence[Held], effects: Sequence[Effect]
    ) -> _Beside:
        """Of one rank's step."""
        found = [
            i
            for i, (span, effect) in enumerate(zip(spans, effects, strict=True))
            if span.lane != Lane.COMPUTE and (effect.made.get(kind) or effect.freed.get(kind))
        ]
        return cls(
            [spans[i].t_start for i in found],
            [rows[i].t for i in found],  # read after its frees, which follow its t_done
            [effects[i].made.get(kind, 0) for i in found],
            [0, *accumulate(effects[i].net(kind) for i in found)],
        )

    def held(self, start: int, stop: int) -> set[int]:
        """Bytes that there may be at a reading between two moments."""
        done, begun = bisect_left(self.ends, start), bisect_right(self.starts, stop)
        nets = self.nets[done : begun + 1]
        under_way = zip(nets, self.made[done:begun], strict=False)
        return {*nets, *(net + made for net, made in under_way)}

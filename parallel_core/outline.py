"""The memory of a step over time: bytes of weights, gradients and optimizer state on each rank.

    resident   buffers that stay: what ledger.predicted_memory counts
    +          values with memory of their own, from the start of the instruction that writes them
               to the end of the one that frees them: full, gpart, and from stage 2 on grad and tie
    +          where a reduce-scatter's sum lands, while it runs

`memory_outline` follows one trace, `agreement` lays measured bytes beside it (peak.py: the most
that any timing allows). Activations and message buffers are left out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from parallel_core.data.blocks import blocks
from parallel_core.ledger import predicted_memory
from parallel_core.plan import DType, Plan
from parallel_core.program import Instr, Lane, Op, Program, Value
from parallel_core.trace import Span, Trace

KINDS = ("params", "grads", "optimizer")
"""What is followed, in the order in which a Held names it."""


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

    def __getitem__(self, kind: str) -> int:
        return int(getattr(self, kind))


@dataclass(frozen=True)
class Effect:
    """What an instruction makes at its start and lets go at its end, bytes by kind."""

    made: dict[str, int] = field(default_factory=dict)
    freed: dict[str, int] = field(default_factory=dict)

    def net(self, kind: str) -> int:
        """By how much the instruction moves a kind when it is over."""
        return self.made.get(kind, 0) - self.freed.get(kind, 0)


def effects(plan: Plan) -> Callable[[Instr], Effect]:
    """What each instruction of a plan's program does to memory, its first update left aside."""
    width = DType(plan.dtype).bytes
    cut = {block.units[0]: block for block in blocks(plan)} if plan.zero else {}
    pads = {u: block.padded * width for u, block in cut.items()}
    shards = {u: block.shard * width for u, block in cut.items()}

    def own(value: Value) -> tuple[str, int]:
        """Kind and bytes of a value that has memory of its own, else no bytes."""
        u = value.at[0] if value.at else 0
        match value.name:
            case "full":
                return "params", pads[u]
            case "gpart":
                return "grads", shards.get(u, 0)
            case "grad" if plan.zero >= 2:
                return "grads", pads[u]
            case "tie" if plan.zero >= 2:
                return "grads", pads[0]  # a block of the embedding's
        return "params", 0

    def effect(instr: Instr) -> Effect:
        takes_over = {"tie", "grad"} if any(r.name == "tie" for r in instr.reads) else set()
        made = _sum(own(value) for value in instr.writes if value.name not in takes_over)
        freed = _sum(own(value) for value in instr.frees if value.name not in takes_over)
        if instr.op == Op.REDUCE_SCATTER:
            landed = sum(shards.get(v.at[0], 0) for v in instr.writes if v.name == "gshard")
            made["grads"] = made.get("grads", 0) + landed
            freed["grads"] = freed.get("grads", 0) + landed
        return Effect(made, freed)

    return effect


def _sum(parts: Iterator[tuple[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for kind, size in parts:
        total[kind] = total.get(kind, 0) + size
    return total


def memory_outline(plan: Plan, program: Program, trace: Trace) -> tuple[Held, ...]:
    """Bytes by kind after every instruction of a simulated, replayed or measured trace, in time.

    Step 0 is the first one: its update makes the optimizer's moments.
    """
    rows: list[Held] = []
    effect = effects(plan)
    for rank in range(trace.world_size):
        for step in trace.steps:
            spans = [s for s in trace.by_rank[rank] if s.step == step]
            rows += _rank_outline(_Level(plan, rank, step), program.ranks[rank], spans, effect)
    return tuple(rows)


class _Level:
    """Bytes by kind now, on one rank in one step."""

    def __init__(self, plan: Plan, rank: int, step: int) -> None:
        self.rank, self.step = rank, step
        before = predicted_memory(plan, stepped=step > 0)
        after = predicted_memory(plan)["optimizer"][rank]
        self.now = {kind: before[kind][rank] for kind in KINDS}
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
        return Held(self.rank, self.step, index, t, *(self.now[kind] for kind in KINDS))


def _rank_outline(
    level: _Level, instrs: Sequence[Instr], spans: Sequence[Span], effect: Callable[[Instr], Effect]
) -> Iterator[Held]:
    # at one moment: what ends, then what starts, then what did both at once
    moments = [(s.t_start, 1, s) for s in spans]
    moments += [(s.t_done, 0 if s.duration else 2, s) for s in spans]
    for t, phase, span in sorted(moments, key=lambda m: (m[0], m[1], m[2].index)):
        instr = instrs[span.index]
        if phase == 1:
            level.begin(instr, effect(instr))
        else:
            yield level.end(span.index, t, effect(instr))


@dataclass(frozen=True)
class Agreement:
    """Measured bytes beside the outline, after every instruction of the compute lanes.

    Where a message that makes or frees memory is under way at that moment (`open_`), the outline
    gives a range instead of a number. `differences` are one sentence each.
    """

    exact: int
    open_: int
    differences: tuple[str, ...]


def agreement(plan: Plan, program: Program, trace: Trace, gauge: Sequence[Held]) -> Agreement:
    """Are the measured bytes of `gauge` those that the outline of the same run says?"""
    effect = effects(plan)
    measured = {(row.rank, row.step, row.index): row for row in gauge}
    readings: list[_Reading] = []
    for rank in range(trace.world_size):
        for step in trace.steps:
            spans = [s for s in trace.by_rank[rank] if s.step == step]
            rows = [measured.get((rank, step, s.index)) for s in spans]
            whole = [row for row in rows if row is not None]
            if len(whole) == len(spans):  # else a step cut short by a live view
                instrs = [program.ranks[rank][s.index] for s in spans]
                steps = _Steps(spans, whole, instrs, [effect(instr) for instr in instrs])
                readings += steps.readings(_Level(plan, rank, step))
    exact = sum(reading.low == reading.high for reading in readings)
    return Agreement(exact, len(readings) - exact, tuple(s for r in readings for s in r.wrong()))


@dataclass(frozen=True)
class _Reading:
    """Bytes by kind after one instruction: as measured, and the least and most of the outline."""

    at: str
    measured: Held
    low: dict[str, int]
    high: dict[str, int]

    def wrong(self) -> Iterator[str]:
        """A sentence for each kind that is out of range."""
        for kind in KINDS:
            low, high, found = self.low[kind], self.high[kind], self.measured[kind]
            if not low <= found <= high:
                says = f"{low:,}" if low == high else f"{low:,} to {high:,}"
                yield f"{self.at}: {found:,} bytes of {kind}, where the outline says {says}"


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
        beside = [i for i, s in enumerate(spans) if s.lane != Lane.COMPUTE]
        self._beside = [effects[i] for i in beside]
        self._starts = [spans[i].t_start for i in beside]
        self._ends = [rows[i].t for i in beside]  # read after its frees, which follow its t_done
        self._nets = {kind: [0, *accumulate(e.net(kind) for e in self._beside)] for kind in KINDS}

    def readings(self, level: _Level) -> Iterator[_Reading]:
        """One after each instruction of the compute lane."""
        for i, span in enumerate(self._spans):
            if span.lane != Lane.COMPUTE:
                continue
            row, instr = self._rows[i], self._instrs[i]
            level.begin(instr, self._effects[i])
            now = level.end(span.index, row.t, self._effects[i])
            others = {kind: self._others(i, kind) for kind in KINDS}
            low = {kind: now[kind] + least for kind, (least, _) in others.items()}
            high = {kind: now[kind] + most for kind, (_, most) in others.items()}
            at = f"rank {row.rank}, step {row.step}, after {instr.label}"
            yield _Reading(at, row, low, high)

    def _others(self, i: int, kind: str) -> tuple[int, int]:
        """The least and the most that the other lane may hold at the reading after span i."""
        done = bisect_left(self._ends, self._spans[i].t_done)
        begun = bisect_right(self._starts, self._rows[i].t)
        nets = self._nets[kind][done : begun + 1]
        under_way = zip(nets, self._beside[done:begun], strict=False)
        raised = [net + effect.made.get(kind, 0) for net, effect in under_way]
        return min(nets), max([*nets, *raised])

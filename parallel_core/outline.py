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
from dataclasses import dataclass, field
from itertools import accumulate

from parallel_core.activations.held import held_bytes
from parallel_core.activations.saved import again_bytes, offloaded_bytes, saved_bytes
from parallel_core.data.blocks import blocks
from parallel_core.ledger import predicted_memory
from parallel_core.params import pieces
from parallel_core.plan import DType, Plan
from parallel_core.program import Instr, Lane, Op, Program, Value
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


@dataclass(frozen=True)
class Effect:
    """What an instruction makes at its start and lets go at its end, bytes by kind."""

    made: dict[str, int] = field(default_factory=dict)
    freed: dict[str, int] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return bool(self.made or self.freed)

    def net(self, kind: str) -> int:
        """By how much the instruction moves a kind when it is over."""
        return self.made.get(kind, 0) - self.freed.get(kind, 0)


def effects(plan: Plan) -> Callable[[Instr], Effect]:
    """What each instruction of a plan's program does to memory, its first update left aside."""
    width = DType(plan.dtype).bytes
    kept = _kept(plan)
    again = {p.name: max(again_bytes(plan, unit) for unit in p.units) for p in pieces(plan)}
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
            case _:
                return kept(value)
        return "params", 0

    def effect(instr: Instr) -> Effect:
        takes_over = {"tie", "grad"} if any(r.name == "tie" for r in instr.reads) else set()
        made = _sum(own(value) for value in instr.writes if value.name not in takes_over)
        freed = _sum(own(value) for value in instr.frees if value.name not in takes_over)
        if instr.op in (Op.B, Op.I) and again.get(instr.where):
            for change in (made, freed):
                change["activations"] = change.get("activations", 0) + again[instr.where]
        return Effect(made, freed)

    return effect


def _kept(plan: Plan) -> Callable[[Value], tuple[str, int]]:
    """Kind and bytes of what forwards keep, on the device or on the host."""
    every = [piece.units for piece in pieces(plan)]
    saved = [sum(saved_bytes(plan, unit) for unit in units) for units in every]
    held = [sum(held_bytes(plan, unit) for unit in units) for units in every]
    away = [sum(offloaded_bytes(plan, unit) for unit in units) for units in every]
    tables = {
        "saved": ("activations", saved),
        "held": ("activations", held),
        "back": ("activations", away),
        "host": ("host", away),
    }

    def kept(value: Value) -> tuple[str, int]:
        kind, sizes = tables.get(value.name, ("params", []))
        return (kind, sizes[value.at[1]]) if sizes else (kind, 0)

    return kept


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
        # of the lanes beside it one alone makes or frees memory: its ends are in order
        beside = [i for i, s in enumerate(spans) if s.lane != Lane.COMPUTE and effects[i].acts]
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
            allowed = {k: {now[k] + more for more in self._others(i, k)} for k in KINDS}
            yield _Reading(f"rank {row.rank}, step {row.step}, after {instr.label}", row, allowed)

    def _others(self, i: int, kind: str) -> set[int]:
        """What the other lane may hold at the reading after span i."""
        done = bisect_left(self._ends, self._spans[i].t_done)
        begun = bisect_right(self._starts, self._rows[i].t)
        nets = self._nets[kind][done : begun + 1]
        under_way = zip(nets, self._beside[done:begun], strict=False)
        return {*nets, *(net + effect.made.get(kind, 0) for net, effect in under_way)}

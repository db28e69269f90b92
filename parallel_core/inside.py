"""Messages inside a compute instruction, laid open for a clock and folded in again.

    F layer1 mb0  ! all_gather @tp  ! reduce_scatter @tp

    compute   F 10 % | all_gather | F 60 % | reduce_scatter | F 30 %

A compute instruction is one task to a reader of a program, but its ranks meet inside it. Where a
message stands among the task's own work is data (Message.before, .under). `opened` makes a program
in which each part and each message is an instruction of its own: whoever checks or simulates that
one needs no rule for what is inside. `closed` makes its trace one of the program again.

Work that is done *under* a message runs beside it: under an all-gather in as many tiles as the
group has members, each waiting for the one hop that brings its own, the rank's own first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from parallel_core.cost import Cost
from parallel_core.program import Instr, Lane, Message, Op, Program, Value
from parallel_core.trace import Inside, Kind, Span, Trace

NAME = "inside"


@dataclass(frozen=True)
class Part:
    """What an opened instruction is of the one it came from: a share of its work, or a message."""

    index: int
    of: Instr
    share: float = 0.0
    message: int | None = None


@dataclass(frozen=True)
class Opened:
    """A program whose tasks are opened. `parts` has an entry an instruction, rank by rank."""

    program: Program
    parts: tuple[tuple[Part, ...], ...]

    def cost(self, cost: Cost) -> Cost:
        """What the parts cost, where the tasks cost `cost`."""
        found = {
            id(instr): part
            for instrs, parts in zip(self.program.ranks, self.parts, strict=True)
            for instr, part in zip(instrs, parts, strict=True)
        }
        return _PartCost(cost, found)

    def closed(self, trace: Trace) -> Trace:
        """The trace of `program` as one of the program that was opened."""
        spans = [span for rank in range(trace.world_size) for span in self._closed(trace, rank)]
        return replace(trace, spans=tuple(sorted(spans, key=lambda s: (s.rank, s.t_start))))

    def _closed(self, trace: Trace, rank: int) -> Iterator[Span]:
        parts = self.parts[rank]
        found: dict[int, list[Span]] = defaultdict(list)
        for span in sorted(trace.by_rank[rank], key=lambda s: s.index):
            found[parts[span.index].index].append(span)
        met: dict[tuple[object, ...], int] = defaultdict(int)
        for index in sorted(found):
            span = _joined(index, found[index], parts)
            if span.seq is not None:
                key = (span.axis, span.op if span.op in (Op.SEND, Op.RECV) else "", span.peers)
                span = replace(span, seq=met[key])
                met[key] += 1
            yield span


def _joined(index: int, spans: list[Span], parts: tuple[Part, ...]) -> Span:
    deps = sorted({parts[dep].index for span in spans for dep in span.deps} - {index})
    if len(spans) == 1:
        return replace(spans[0], index=index, deps=tuple(deps))
    work = [span for span in spans if parts[span.index].message is None]
    messages: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        number = parts[span.index].message
        if number is not None:
            messages[number].append(span)
    inner = parts[spans[0].index].of.inner
    inside: list[Inside] = []
    for number, hops in sorted(messages.items()):
        m, size = inner[number], sum(hop.bytes for hop in hops) // len(hops)
        times = min(hop.t_start for hop in hops), max(hop.t_done for hop in hops)
        inside.append((m.op.value, m.axis, str(m.value), size, *times))
    return replace(
        work[-1],
        index=index,
        deps=tuple(deps),
        t_post=work[0].t_post,
        t_start=work[0].t_start,
        cpu_ns=sum(span.cpu_ns for span in work),
        inside=tuple(inside),
    )


def opened(program: Program) -> Opened | None:
    """The program with its tasks opened; None where no task has a message inside."""
    if not any(_opens(instr) for instrs in program.ranks for instr in instrs):
        return None
    known: dict[int, tuple[tuple[Instr, ...], tuple[Part, ...]]] = {}
    for instrs in program.ranks:
        if id(instrs) not in known:  # ranks that run the same share one tuple
            rows = [row for i, instr in enumerate(instrs) for row in _Task(program, i, instr)]
            known[id(instrs)] = tuple(r[0] for r in rows), tuple(r[1] for r in rows)
    ranks = [known[id(instrs)] for instrs in program.ranks]
    whole = replace(program, ranks=tuple(rank[0] for rank in ranks))
    return Opened(whole, tuple(rank[1] for rank in ranks))


def _opens(instr: Instr) -> bool:
    return bool(instr.inner) and not instr.op.is_message


@dataclass
class _Task:
    """Opens one instruction; yields each of its instructions and what part it is."""

    program: Program
    index: int
    instr: Instr
    rows: list[tuple[Instr, Part]] = field(default_factory=list)
    marks: int = 0

    def __iter__(self) -> Iterator[tuple[Instr, Part]]:
        if not _opens(self.instr):
            return iter([(self.instr, Part(self.index, self.instr, 1.0))])
        told = [m.before + m.under for m in self.instr.inner]
        even = 1 / (len(told) + 1)
        ready: tuple[Value, ...] = self.instr.reads
        for number, message in enumerate(self.instr.inner):
            before = message.before if any(told) else even
            ready = self._meet(number, message, self._work(before, ready))
        rest = 1 - sum(told) if any(told) else even
        last = replace(
            self.instr,
            reads=ready,
            inner=(),
            frees=(*self.instr.frees, *(v for row, _ in self.rows for v in row.writes)),
        )
        self.rows.append((last, Part(self.index, self.instr, rest)))
        return iter(self.rows)

    def _mark(self) -> Value:
        self.marks += 1
        return Value(NAME, (self.index, self.marks - 1))

    def _work(self, share: float, reads: tuple[Value, ...]) -> tuple[Value, ...]:
        """A part of the task's own work; the mark that it is done."""
        done = self._mark()
        row = replace(self.instr, reads=reads, writes=(done,), frees=(), inner=())
        self.rows.append((row, Part(self.index, self.instr, share)))
        return (done,)

    def _meet(self, number: int, message: Message, ready: tuple[Value, ...]) -> tuple[Value, ...]:
        """A message, and beside it the work that is done under it."""
        n = self.program.mesh.degree(message.axis)
        if not message.under:
            return self._hop(number, message, ready, (1.0, Lane.COMPUTE))
        tiles = n if message.op == Op.ALL_GATHER else 1
        hops = [ready]
        for _ in range(max(tiles - 1, 1)):
            hops.append(self._hop(number, message, hops[-1], (1 / max(tiles - 1, 1), Lane.INSIDE)))
        done = ready
        for tile in range(tiles):
            done = self._work(message.under / tiles, (*done, *hops[tile]))
        return (*done, *hops[-1])

    def _hop(
        self, number: int, message: Message, ready: tuple[Value, ...], how: tuple[float, Lane]
    ) -> tuple[Value, ...]:
        share, lane = how
        done = self._mark()
        row = Instr(
            op=message.op,
            where=message.value.name,
            mb=self.instr.mb,
            lane=lane,
            axis=message.axis,
            reads=ready,
            writes=(done,),
            inner=(message,),
        )
        self.rows.append((row, Part(self.index, self.instr, share, number)))
        return (done,)


@dataclass(frozen=True)
class _PartCost:
    """A cost of tasks, shared out among their parts."""

    of: Cost
    parts: dict[int, Part]

    @property
    def kind(self) -> Kind:
        """As of the tasks."""
        return self.of.kind

    @property
    def text(self) -> str:
        """As of the tasks."""
        return self.of.text

    @property
    def latency(self) -> float:
        """As of the tasks."""
        return self.of.latency

    def seconds(self, rank: int, instr: Instr) -> float:
        """The part's share of its task, or of its message."""
        part = self.parts[id(instr)]
        whole = instr if part.message is not None else part.of
        return part.share * self.of.seconds(rank, whole)

    def bytes(self, value: Value) -> int:
        """Marks have none."""
        return 0 if value.name == NAME else self.of.bytes(value)

    def payload(self, instr: Instr) -> int:
        """What the message hands over."""
        return self.of.payload(instr)

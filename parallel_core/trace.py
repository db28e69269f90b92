"""Trace: what happened (or is predicted to happen) on every rank, in one event schema.

A simulated, a measured, a replayed and a recorded run are all Traces; only `kind` differs, and
every view shows it. Times are nanoseconds on the machine-wide monotonic clock (one clock for all
processes of a machine), or nanoseconds since the start for a simulated trace.

    t_post    the rank asked for it (for the comm lane: handed it over)
    t_start   its lane began it
    t_done    it was finished

The JSON form is columnar (one list a column), so that 100,000 spans stay small.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

SCHEMA = 1

Inside = tuple[str, str, str, int, int, int]
"""A message inside a task: op, axis, what it carries, payload bytes, t_start, t_done."""


class Kind(StrEnum):
    """Where a mark comes from; every figure carries it as a badge."""

    MEASURED = "measured"
    REPLAYED = "replayed"
    RECORDED = "recorded"
    MODELLED = "modelled"
    QUOTED = "quoted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One instruction, as it ran on one rank in one step.

    `op`, `where`, `mb` and `index` come from the Instr; `seq` counts the messages of one group
    (`axis`, `peers`), so that the ends of one message find each other. `bytes` is the payload
    handed over, `memory` the live bytes of the rank after it, `cpu_ns` the compute thread's own
    CPU time, `deps` the indices on this rank of the spans whose results it needed, `inside` the
    messages that a task holds itself, in order.
    """

    rank: int
    step: int
    index: int
    lane: str
    op: str
    where: str = ""
    mb: int | None = None
    t_post: int
    t_start: int
    t_done: int
    cpu_ns: int = 0
    bytes: int = 0
    axis: str | None = None
    peers: tuple[int, ...] = ()
    seq: int | None = None
    memory: int = 0
    deps: tuple[int, ...] = ()
    source: str = ""
    inside: tuple[Inside, ...] = ()

    @property
    def label(self) -> str:
        """The same short name as the instruction's: `F layer3 mb0`."""
        mb = "" if self.mb is None else f"mb{self.mb}"
        return " ".join(part for part in (self.op, self.where, mb) if part)

    @property
    def duration(self) -> int:
        """Nanoseconds from start to done."""
        return self.t_done - self.t_start


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOffset:
    """The ranks of another node: their times were laid on the first node's clock.

    Before that they were `off_ns` ahead; where they lie now is certain to `unsure_ns` either way.
    """

    node: int
    ranks: tuple[int, ...]
    off_ns: int
    unsure_ns: int


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What made a trace: kind, backend, machine, versions, seed, date, and the plan it ran.

    `clocks` are the nodes beside the first, where a trace was taken on several.
    """

    kind: Kind
    title: str = ""
    backend: str = ""
    machine: str = ""
    date: str = ""
    commit: str = ""
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    clocks: tuple[NodeOffset, ...] = ()

    def clock_of(self, rank: int) -> NodeOffset | None:
        """The node's whose clock this rank's times were taken on; None for the first node."""
        return next((clock for clock in self.clocks if rank in clock.ranks), None)

    def unsure_between(self, rank: int, other: int) -> int:
        """By how much two ranks' times may be apart from the truth, nanoseconds; 0 on one node."""
        one, two = self.clock_of(rank), self.clock_of(other)
        return 0 if one == two else sum(clock.unsure_ns for clock in (one, two) if clock)

    @property
    def badge(self) -> str:
        """The line every figure shows."""
        parts = [self.backend, self.machine, self.date]
        parts += [f"seed {self.seed}"] if self.seed is not None else []
        parts += [f"commit {self.commit}"] if self.commit else []
        return f"{self.kind.value}: " + ", ".join([p for p in parts if p] + list(self.notes))


_COLUMNS = tuple(f.name for f in fields(Span))


@dataclass(frozen=True)
class Trace:
    """Spans of every rank, in (rank, step, lane, start) order, and where they come from."""

    spans: tuple[Span, ...]
    provenance: Provenance
    world_size: int
    metrics: tuple[dict[str, Any], ...] = ()  # one dict a step: step, loss, grad_norm, tokens_per_s

    @property
    def kind(self) -> Kind:
        """What the marks of this trace are."""
        return self.provenance.kind

    @cached_property
    def by_rank(self) -> tuple[tuple[Span, ...], ...]:
        """The spans of each rank, in order of start."""
        rows: list[list[Span]] = [[] for _ in range(self.world_size)]
        for span in self.spans:
            rows[span.rank].append(span)
        return tuple(tuple(sorted(row, key=lambda s: (s.t_start, s.t_done))) for row in rows)

    @property
    def start(self) -> int:
        """The earliest start, nanoseconds."""
        return min((s.t_start for s in self.spans), default=0)

    @property
    def makespan(self) -> int:
        """Nanoseconds from the first start to the last end."""
        return max((s.t_done for s in self.spans), default=0) - self.start

    def only(self, step: int) -> Trace:
        """The part of one step."""
        return replace(self, spans=tuple(s for s in self.spans if s.step == step))

    @property
    def steps(self) -> tuple[int, ...]:
        """The step numbers in the trace."""
        return tuple(sorted({s.step for s in self.spans}))

    def to_json(self) -> str:
        """The columnar JSON form; `Trace.from_json` reads it back."""
        columns = {name: [getattr(s, name) for s in self.spans] for name in _COLUMNS}
        data = {
            "shardlab_trace": SCHEMA,
            "world_size": self.world_size,
            "provenance": asdict(self.provenance),
            "metrics": self.metrics,
            "spans": columns,
        }
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Trace:
        """The trace written by `to_json`; raises ValueError for anything else."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("shardlab_trace") != SCHEMA:
            raise ValueError("this JSON is no ShardLab trace of schema 1")
        prov = dict(data["provenance"])
        prov["kind"], prov["notes"] = Kind(prov["kind"]), tuple(prov.get("notes", ()))
        clocks = prov.get("clocks", ())
        prov["clocks"] = tuple(NodeOffset(**c | {"ranks": tuple(c["ranks"])}) for c in clocks)
        return cls(
            spans=tuple(spans_of_columns(data["spans"])),
            provenance=Provenance(**prov),
            world_size=data["world_size"],
            metrics=tuple(data.get("metrics", ())),
        )


def spans_of_columns(columns: dict[str, list[Any]]) -> Iterable[Span]:
    """Spans from their columnar form."""
    names = [name for name in _COLUMNS if name in columns]
    for row in zip(*(columns[name] for name in names), strict=True):
        cell = dict(zip(names, row, strict=True))
        cell["peers"], cell["deps"] = tuple(cell.get("peers", ())), tuple(cell.get("deps", ()))
        cell["inside"] = tuple(tuple(one) for one in cell.get("inside", ()))
        yield Span(**cell)

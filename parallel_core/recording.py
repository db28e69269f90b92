"""From what a rank wrote down to the spans of a Trace.

While it runs, a rank notes eight numbers an instruction (about half a microsecond). All else a
span says is in the program, which the reader of the notes has too: nothing is sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_core.program import Instr, Op, Program, Value
from parallel_core.trace import Inside, Span

Stamp = tuple[str, str, int, int, int]
"""A message inside a task: op, axis, payload bytes, t_start, t_done"""

Note = tuple[int, int, int, int, int, int, int, int, list[Stamp]]
"""step, index, t_post, t_start, t_done, cpu_ns, bytes, memory, what happened inside"""


@dataclass(frozen=True)
class _Facts:
    """What the program knows about one instruction of one rank."""

    instr: Instr
    deps: tuple[int, ...]
    peers: tuple[int, ...]
    number: int  # how many messages of its group come before it in a step
    a_step: int  # how many the group has in a step


class Expander:
    """Turns notes into spans, for one program."""

    def __init__(self, program: Program, sources: Mapping[str, str] | None = None) -> None:
        self._facts = [_facts(program, rank) for rank in range(program.mesh.size)]
        self._sources = sources or {}

    def spans(self, rank: int, notes: Iterable[Sequence[Any]]) -> list[Span]:
        """The spans of one rank's notes, in the order they were written."""
        return [self._span(rank, note) for note in notes]

    def _span(self, rank: int, note: Sequence[Any]) -> Span:
        step, index, post, start, done, cpu, size, memory, *stamps = note
        facts = self._facts[rank][index]
        instr = facts.instr
        meets = instr.op.is_message
        return Span(
            rank=rank,
            step=step,
            index=index,
            lane=instr.lane.value,
            op=instr.op.value,
            where=instr.where,
            mb=instr.mb,
            t_post=post,
            t_start=start,
            t_done=done,
            cpu_ns=cpu,
            bytes=size,
            axis=instr.axis,
            peers=facts.peers,
            seq=step * facts.a_step + facts.number if meets else None,
            memory=memory,
            deps=facts.deps,
            source=self._sources.get(instr.op.value, ""),
            inside=_inside(instr, stamps[0] if stamps else ()),
        )


def _inside(instr: Instr, stamps: Sequence[Sequence[Any]]) -> tuple[Inside, ...]:
    """What was recorded, with the names that the program has for it."""
    names = [str(m.value) for m in instr.inner] if len(instr.inner) == len(stamps) else []
    names = names or [""] * len(stamps)
    return tuple(
        (op, axis, name, size, start, done)
        for (op, axis, size, start, done), name in zip(stamps, names, strict=True)
    )


def meeting(program: Program, rank: int, instr: Instr) -> tuple[int, ...]:
    """Who takes part in a message: the group, or (source, destination)."""
    if instr.op.is_collective and instr.axis:
        return program.mesh.group(rank, instr.axis)
    if instr.peer is not None:
        return (rank, instr.peer) if instr.op == Op.SEND else (instr.peer, rank)
    return ()


def _facts(program: Program, rank: int) -> list[_Facts]:
    writer: dict[Value, int] = {}
    seen: dict[tuple[str | None, tuple[int, ...]], int] = {}
    numbers: list[int] = []
    keys = []
    rows = []
    for index, instr in enumerate(program.ranks[rank]):
        peers = meeting(program, rank, instr)
        key = (instr.axis, peers)
        keys.append(key)
        numbers.append(seen.get(key, 0))
        seen[key] = numbers[-1] + 1 if instr.op.is_message else numbers[-1]
        deps = sorted({writer[value] for value in instr.reads if value in writer})
        writer.update(dict.fromkeys(instr.writes, index))
        rows.append((instr, tuple(deps), peers))
    return [
        _Facts(instr, deps, peers, number, seen[key])
        for (instr, deps, peers), number, key in zip(rows, numbers, keys, strict=True)
    ]

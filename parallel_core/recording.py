"""From what a rank wrote down to the spans of a Trace.

While it runs, a rank notes eight numbers an instruction (about half a microsecond). All else a
span says is in the program, which the reader of the notes has too: nothing is sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from parallel_core.program import Instr, Op, Program, Value
from parallel_core.trace import Span

Note = tuple[int, int, int, int, int, int, int, int]
"""step, index, t_post, t_start, t_done, cpu_ns, bytes, memory"""


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

    def spans(self, rank: int, notes: Iterable[Sequence[int]]) -> list[Span]:
        """The spans of one rank's notes, in the order they were written."""
        return [self._span(rank, note) for note in notes]

    def _span(self, rank: int, note: Sequence[int]) -> Span:
        step, index, post, start, done, cpu, size, memory = note
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

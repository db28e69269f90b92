"""A collective is written down message by message; frees and lanes are added here, once.

Nouns. A *step* is a set of messages that depend on earlier steps alone, so their latencies may
overlap. A rank's *running sum* of a chunk starts as its own input and grows with each addition.

Both ends book a message in one order (by step, then as written), so no two ranks can wait for
each other: the first message of that order that is not done can always go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.promise import promise
from parallel_core.program import Instr, Lane, Op, Program, Value

_ORDER = {Op.SEND: 0, Op.RECV: 1, Op.ADD: 2}


class Script:
    """The messages and additions of one collective; `program()` hands them out as a Program."""

    def __init__(self, op: str, algorithm: str, group: Group, chunks: int) -> None:
        """For `op` on a buffer of so many chunks; `algorithm` is the second half of its name."""
        self.group, self.name = group, f"{op} {algorithm} n={group.n}"
        self.promise = promise(op, group, chunks)
        self._lines: list[list[tuple[int, Instr]]] = [[] for _ in group.ranks]
        # rank, chunk -> every running sum so far: the step that made it, its name, how many ranks
        self._sums: dict[tuple[int, int], list[tuple[int, Value, int]]] = {}
        self._covers: dict[tuple[int, Value], int] = {}

    def copy(self, step: int, source: int, destination: int, values: Iterable[Value]) -> None:
        """One message: `destination` then has these values too, under the same names."""
        names = tuple(values)
        self._message(step, (source, destination), names, names)

    def hand(self, step: int, source: int, destination: int, chunks: Sequence[int]) -> None:
        """One message: the running sums that `source` had before this step, as got[c,source]."""
        had = [self._before(step, source, c) for c in chunks]
        arrives = tuple(v.got(c, source) for c in chunks)
        for value, (_, count) in zip(arrives, had, strict=True):
            self._covers[destination, value] = count
        self._message(step, (source, destination), tuple(value for value, _ in had), arrives)

    def add(self, step: int, rank: int, sources: Iterable[int], chunks: Sequence[int]) -> None:
        """One addition a chunk, in rank order: the rank's running sum and what `sources` sent."""
        order = sorted((rank, *sources))
        running = {c: self._before(step + 1, rank, c) for c in chunks}
        reads, counts = [], dict.fromkeys(chunks, 0)
        for source in order:  # a row of chunks per operand
            for c in chunks:
                value = running[c][0] if source == rank else v.got(c, source)
                counts[c] += running[c][1] if source == rank else self._covers[rank, value]
                reads.append(value)
        whole = self.group.n
        writes = [v.total(c) if counts[c] == whole else v.part(c, counts[c]) for c in chunks]
        for c, value in zip(chunks, writes, strict=True):
            made = self._sums.setdefault((rank, c), [])
            assert not made or made[-1][0] <= step, "additions are written down in step order"
            made.append((step, value, counts[c]))
        added = Instr(op=Op.ADD, where=_where(step), reads=tuple(reads), writes=tuple(writes))
        self._lines[rank].append((step, added))

    def reduce(self, step: int, source: int, destination: int, chunks: Sequence[int]) -> None:
        """A message and its addition: `destination` adds in the running sums of `source`."""
        self.hand(step, source, destination, chunks)
        self.add(step, destination, (source,), chunks)

    def program(self) -> Program:
        """Every rank's instructions in step order; a value that is not kept goes with its last use.

        Sends leave by Lane.OUT, receives come in by Lane.IN, additions run on Lane.COMPUTE.
        """
        keeps = self.promise.keeps
        ranks = []
        for rank, lines in enumerate(self._lines):
            ordered = sorted(lines, key=lambda line: (line[0], _ORDER[line[1].op]))
            ranks.append(_with_frees([instr for _, instr in ordered], frozenset(keeps[rank])))
        return Program(self.group.mesh, tuple(ranks), self.promise.holds, keeps, self.name)

    def _before(self, step: int, rank: int, c: int) -> tuple[Value, int]:
        made = [(s, value, k) for s, value, k in self._sums.get((rank, c), []) if s < step]
        return made[-1][1:] if made else (v.x(c), 1)

    def _message(
        self, step: int, ends: tuple[int, int], sent: tuple[Value, ...], arrives: tuple[Value, ...]
    ) -> None:
        source, destination = ends
        where = _where(step)
        leaves = Instr(op=Op.SEND, where=where, lane=Lane.OUT, peer=destination, reads=sent)
        comes = Instr(op=Op.RECV, where=where, lane=Lane.IN, peer=source, writes=arrives)
        self._lines[source].append((step, leaves))
        self._lines[destination].append((step, comes))


def step_of(instr: Instr) -> int:
    """The step an instruction of a collective belongs to, which its `where` says."""
    return int(instr.where.removeprefix("step"))


def _where(step: int) -> str:
    return f"step{step}"


Name = Callable[[int], Value]
"""Chunk -> the value that a gathering algorithm moves: names.x, or names.total after a sum."""


def _with_frees(instrs: list[Instr], keeps: frozenset[Value]) -> tuple[Instr, ...]:
    """Each value that is not kept is freed by its last reader, once all its readers are done.

    A sum that is sent and added has readers on two lanes, and neither knows when the other is
    done: there the port waits for the addition, and frees it then.
    """
    last = {value: index for index, instr in enumerate(instrs) for value in instr.reads}
    sent = {value for instr in instrs if instr.op == Op.SEND for value in instr.reads}
    done = []
    for index, instr in enumerate(instrs):
        gone = [x for x in dict.fromkeys(instr.reads) if last[x] == index and x not in keeps]
        shared = tuple(x for x in gone if instr.op == Op.ADD and x in sent)
        mine = tuple(x for x in gone if x not in shared)
        done.append(replace(instr, frees=mine) if mine else instr)
        if shared:
            done.append(
                replace(
                    instr, op=Op.WAIT, lane=Lane.OUT, reads=instr.writes, writes=(), frees=shared
                )
            )
    return tuple(done)

"""Offloading: what a forward kept waits for its backward in host memory.

    compute  F1  F2  w F3  w F4  w | B4      B3      B2      B1
    host         o1    o2    o3    |     f3      f2      f1

A layer's activations leave (o) under the next layer's forward and are fetched (f) one backward
before their own. The last layer's stay: its backward follows at once. The forward after the next
waits (w) until they are gone, or a slow host would let them pile up: no more than three layers'
are on the device at a time. In a pipeline it goes by the tasks that a rank runs: the first stages,
whose forwards wait long for their backward, have the most to put away, the last nothing; what
follows at once stays, so where schedules take several such turns more than three stages' are there.
Ren et al. 2021, ZeRO-Offload, arXiv:2101.06840, does so with optimizer state; for activations
Rajbhandari et al. 2020, arXiv:1910.02054, section 6.1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace

from parallel_core import values as v
from parallel_core.away import Key, Task, away
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Op, Program, Value


def offloaded(plan: Plan, program: Program) -> Program:
    """The program with the copies to the host and back that the plan asks for."""
    made: dict[int, tuple[Instr, ...]] = {}
    for instrs in program.ranks:
        if id(instrs) not in made:  # ranks that run the same share one tuple
            made[id(instrs)] = tuple(_Copies(plan, instrs).placed(instrs))
    ranks = tuple(made[id(instrs)] for instrs in program.ranks)
    return replace(program, ranks=ranks, name=f"{program.name} offloaded")


def leaving(instrs: Sequence[Instr]) -> set[Key]:
    """What of a rank's step goes to the host, by microbatch and piece."""
    kept = (instr.reads[0].at for instr in instrs if instr.op == Op.OFFLOAD)
    return {(mb, u) for mb, u in kept}


class _Copies:
    """Where copies stand among one rank's tasks: those that keep something for a backward, and the
    backwards that take it up, by their number. `due` is when what leaves is fetched again."""

    def __init__(self, plan: Plan, instrs: Sequence[Instr]) -> None:
        self.pieces = pieces(plan)
        self.tasks = [found for instr in instrs if (found := _kept_by(instr)) is not None]
        self.at = {task: i for i, task in enumerate(self.tasks)}
        self.ends = {key: i for i, (forward, key) in enumerate(self.tasks) if not forward}
        self.leave = {key for key in away(self.tasks) if self._layers(key)}
        self.due = {self.ends[key]: key for key in self.leave}
        self.forwards = [i for i, (forward, _) in enumerate(self.tasks) if forward]

    def _layers(self, key: Key) -> bool:
        return any(unit.startswith("layer") for unit in self.pieces[key[1]].units)

    def placed(self, instrs: Sequence[Instr]) -> Iterator[Instr]:
        """A fetch stands before the task before its backward, and waits for the one before that."""
        for instr in instrs:
            task = _kept_by(instr)
            if task is None:
                yield instr
                continue
            (forward, key), t = task, self.at[task]
            if forward:
                yield from self._room(instr, t)
            if (coming := self.due.get(t + 1)) is not None:
                yield self._copy(Op.FETCH, coming, (v.on_host(*coming), v.due(*coming)))
            if (later := self.due.get(t + 2)) is not None:
                instr = replace(instr, writes=(*instr.writes, v.due(*later)))
            if not forward and key in self.leave:
                instr = _reading(instr, v.saved(*key), v.back(*key))
            yield instr
            if forward and key in self.leave:
                yield self._copy(Op.OFFLOAD, key, (v.saved(*key),))

    def _room(self, instr: Instr, t: int) -> Iterator[Instr]:
        """What the forward before the last one kept must be gone, if it is not on its way back."""
        i = bisect_left(self.forwards, t)
        _, key = self.tasks[self.forwards[i - 2]] if i >= 2 else self.tasks[t]
        if i >= 2 and key in self.leave and t < self.ends[key] - 1:
            yield Instr(op=Op.WAIT, where=instr.where, mb=instr.mb, reads=(v.on_host(*key),))

    def _copy(self, op: Op, key: Key, reads: tuple[Value, ...]) -> Instr:
        mb, u = key
        to = v.on_host(mb, u) if op == Op.OFFLOAD else v.back(mb, u)
        name = self.pieces[u].name
        return Instr(
            op=op, where=name, mb=mb, lane=Lane.HOST, reads=reads, writes=(to,), frees=reads
        )


def _kept_by(instr: Instr) -> Task | None:
    """Whether a task is a forward, and of what; None of what keeps nothing and takes up nothing."""
    values = instr.writes if instr.op == Op.F else instr.reads
    kept = next((value for value in values if value.name == "saved"), None)
    if kept is None or instr.op not in (Op.F, Op.B, Op.I):
        return None
    mb, u = kept.at
    return instr.op == Op.F, (mb, u)


def _reading(instr: Instr, old: Value, new: Value) -> Instr:
    def renamed(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(new if value == old else value for value in values)

    return replace(instr, reads=renamed(instr.reads), frees=renamed(instr.frees))

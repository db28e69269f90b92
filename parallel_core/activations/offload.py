"""Offloading: what a forward kept waits for its backward in host memory.

    compute  F1  F2  w F3  w F4  w | B4      B3      B2      B1
    host         o1    o2    o3    |     f3      f2      f1

A layer's activations leave (o) under the next layer's forward and are fetched (f) one backward
before their own. The last layer's stay: its backward follows at once. The forward after the next
waits (w) until they are gone, or a slow host would let them pile up: no more than three layers'
are on the device at a time. Ren et al. 2021,
ZeRO-Offload, arXiv:2101.06840, does so with optimizer state; for activations Rajbhandari et al.
2020, arXiv:1910.02054, section 6.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from parallel_core import values as v
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Op, Program, Value


def offloaded(plan: Plan, program: Program) -> Program:
    """The program with the copies to the host and back that the plan asks for."""
    made: dict[int, tuple[Instr, ...]] = {}
    for instrs in program.ranks:
        if id(instrs) not in made:  # ranks that run the same share one tuple
            made[id(instrs)] = tuple(_with_copies(plan, instrs))
    ranks = tuple(made[id(instrs)] for instrs in program.ranks)
    return replace(program, ranks=ranks, name=f"{program.name} offloaded")


def _with_copies(plan: Plan, instrs: Sequence[Instr]) -> Iterator[Instr]:
    """A layer u's fetch stands before the backward of u + 1, and waits for that of u + 2."""
    for instr in instrs:
        kept = next((x for x in (*instr.writes, *instr.reads) if x.name == "saved"), None)
        if kept is None or instr.op not in (Op.F, Op.B):
            yield instr
            continue
        mb, u = kept.at
        if instr.op == Op.F:
            if plan.offloads(u - 2):
                yield Instr(op=Op.WAIT, where=instr.where, mb=mb, reads=(v.on_host(mb, u - 2),))
            yield instr
            if plan.offloads(u):
                yield _copy(Op.OFFLOAD, instr, (kept,), v.on_host(mb, u))
            continue
        if plan.offloads(u - 1):
            name = replace(instr, where=f"layer{u - 2}")
            yield _copy(Op.FETCH, name, (v.on_host(mb, u - 1), v.due(mb, u - 1)), v.back(mb, u - 1))
        if plan.offloads(u - 2):
            instr = replace(instr, writes=(*instr.writes, v.due(mb, u - 2)))
        yield _reading(instr, kept, v.back(mb, u)) if plan.offloads(u) else instr


def _copy(op: Op, of: Instr, reads: tuple[Value, ...], writes: Value) -> Instr:
    return Instr(
        op=op, where=of.where, mb=of.mb, lane=Lane.HOST, reads=reads, writes=(writes,), frees=reads
    )


def _reading(instr: Instr, old: Value, new: Value) -> Instr:
    def renamed(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(new if value == old else value for value in values)

    return replace(instr, reads=renamed(instr.reads), frees=renamed(instr.frees))

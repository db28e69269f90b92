"""ZeRO-3 (FSDP): weights lie in shards; a unit is gathered for each use and freed after it.

    layers=1 dp=2 prefetch=1
    compute  F embed, F layer0, F head, B head, B layer0, B embed, ...
    comm     all_gather embed, layer0 | head | head | layer0, reduce_scatter head | embed, ...

A gather may start when all but `prefetch` of the uses before it are over, so at most prefetch + 1
units are whole. Two gathers and one scatter of everything a microbatch: 3mΨ elements, 1.5 times
plain data parallelism at m = 1. With `keep_gathered` a forward's weights stay for its backward:
one gather less, and all weights whole at the turn. arXiv:1910.02054, section 5.3; Zhao et al.
2023, PyTorch FSDP, arXiv:2304.11277.

An embedding's backward needs no weights, but is gathered as well: every use is treated alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.data.blocks import block_of, blocks
from parallel_core.data.sharded import block_name, ending, replicate
from parallel_core.data.zero2 import reduce_unit, wait_for_room
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Op, Program, Value


def zero3(plan: Plan) -> Program:
    """w[u/dp] -> w[u] before each use of u, freed after it; g[u]+dp -> g[u/dp]; update."""
    shape = step.Shape.of(plan)
    instrs: list[Instr] = []
    for mb in range(plan.microbatches):
        instrs += step.forward(shape, mb)
        if mb == plan.microbatches - 1:
            instrs.append(step.reduce_loss(shape))
        for b, task in enumerate(step.backward(shape, mb, fresh=True)):
            instrs += [*wait_for_room(plan, b, mb), task, *reduce_unit(plan, b, mb)]
    return replicate(plan, [*with_gathers(plan, instrs), *ending(plan)])


def with_gathers(plan: Plan, instrs: Sequence[Instr]) -> Iterator[Instr]:
    """The instructions, weights gathered for each that uses some, and let go behind it."""
    uses = [instr for instr in instrs if instr.op in USES and _needs(instr)]
    ahead, t = plan.prefetch + 1, 0
    for first in range(ahead):
        yield from _gathers(plan, uses, first, after=None)
    for instr in instrs:
        if instr.op == Op.W:  # what is left of a backward needs no weights
            yield replace(instr, reads=tuple(x for x in instr.reads if x.name != "w"))
        elif instr.op in USES and _needs(instr):
            coming = _gathers(plan, uses, t + ahead, after=t)
            yield _with_gathered(plan, uses, t, marks=bool(coming))
            yield from coming
            t += 1
        elif instr.op in USES:
            yield replace(instr, reads=tuple(x for x in instr.reads if x.name != "w"))
        else:
            yield instr


USES = (Op.F, Op.B, Op.I)


def _needs(task: Instr) -> list[int]:
    """The units whose weights a task reads: its own, and the embedding's under a tied head."""
    return [value.at[0] for value in task.reads if value.name == "w"]


def _gathers(plan: Plan, tasks: list[Instr], t: int, *, after: int | None) -> list[Instr]:
    """The gathers for task t, which may start when task `after` is over."""
    if t >= len(tasks) or (plan.keep_gathered and tasks[t].op == Op.B):
        return []
    found = []
    marks = () if after is None else (v.used(after),)
    needs = _needs(tasks[t])
    for u in needs:
        found.append(
            Instr(
                op=Op.ALL_GATHER,
                where=block_name(plan, block_of(plan, u)),
                mb=tasks[t].mb,
                lane=Lane.COMM,
                axis=blocks(plan)[block_of(plan, u)].axis,
                reads=(v.shard(u), *marks),
                writes=(v.gathered(u, t),),
                frees=marks if u == needs[-1] else (),
            )
        )
    return found


def _with_gathered(plan: Plan, tasks: list[Instr], t: int, *, marks: bool) -> Instr:
    """Task t, reading gathered weights in the place of resident ones, and freeing them."""
    task, source = tasks[t], t
    if plan.keep_gathered and task.op == Op.B:
        same = (Op.F, task.where, task.mb)
        source = next(i for i, other in enumerate(tasks) if _key(other) == same)
    names: dict[Value, Value] = {v.weight(u): v.gathered(u, source) for u in _needs(task)}
    frees = () if plan.keep_gathered and task.op == Op.F else tuple(names.values())
    return replace(
        task,
        reads=tuple(names.get(value, value) for value in task.reads),
        writes=(*task.writes, *([v.used(t)] if marks else [])),
        frees=(*task.frees, *frees),
    )


def _key(task: Instr) -> tuple[Op, str, int | None]:
    return task.op, task.where, task.mb

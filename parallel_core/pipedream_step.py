"""Asynchronous PipeDream's step: every backward is followed by its stage's update.

    p=2 m=3    rank 0   F0 F1 B0 O0 F2 B1 O1 B2 O2
               rank 1   F0 B0 O0 F1 B1 O1 F2 B2 O2

A microbatch is a minibatch of its own. Its forward takes the newest weights of the stage, and its
backward must take the same, though newer ones may exist by then: `w[u,k]`, a piece after k
updates, lives until its last reader. On stage s of p at most p - s versions live at once; that is
weight stashing. Narayanan et al. 2019, arXiv:1806.03377, section 3.3.

Gradients are not accumulated: `grad[u,mb]` is one minibatch's, summed over dp before its update.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.pieces import held_pieces, stage_pieces, stage_sums
from parallel_core.pipeline.lower import Weights, stage_name
from parallel_core.pipeline.order import Task
from parallel_core.pipeline_pieces import groups_of
from parallel_core.pipeline_step import lowering_of
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Op, Program, Value


def pipedream_step(plan: Plan) -> Program:
    """The step of a plan whose schedule is asynchronous; its m updates are the order's."""
    ranks, holds, keeps = [], [], []
    for rank in range(plan.world_size):
        instrs = _instrs(plan, rank)
        mine = held_pieces(plan, rank)
        tokens = lowering_of(plan, rank).tokens(plan.mesh.coordinate(rank)["pp"])
        newest = [v.version(u, plan.microbatches) for u in mine]
        ranks.append(tuple(_freed_at_last_use(instrs, newest)))
        holds.append((*tokens, *(v.version(u, 0) for u in mine)))
        keeps.append((*tokens, *newest, v.TOTAL))
    return Program(plan.mesh, tuple(ranks), tuple(holds), tuple(keeps), plan.layout)


class _Versions:
    """Which weights each task of a rank reads: the newest at its forward, the same in its
    backward."""

    def __init__(self) -> None:
        self.updates: dict[int, int] = {}
        self.stashed: dict[tuple[int, int], int] = {}

    def of(self, task: Task) -> tuple[Value, ...]:
        """The weights of one task."""
        if task.op is Op.F:
            self.stashed[task.mb, task.stage] = self.updates.get(task.stage, 0)
        return (v.version(task.stage, self.stashed[task.mb, task.stage]),)

    def update(self, s: int) -> int:
        """How many updates of stage s came before one more."""
        k = self.updates.get(s, 0)
        self.updates[s] = k + 1
        return k


def _instrs(plan: Plan, rank: int) -> list[Instr]:
    lowering, versions = lowering_of(plan, rank), _Versions()
    here = plan.mesh.coordinate(rank)["pp"]
    instrs: list[Instr] = []
    for task, group in groups_of(plan, lowering, here, Weights(versions.of)):
        instrs += group
        if task.op in (Op.B, Op.W):
            instrs += _update(plan, task, versions)
    loss = lowering.losses(here)
    if loss and plan.gradient_ranks > 1:
        mine, loss = loss, [v.TOTAL_LOSS]
        instrs.append(_reduced(("loss", "dp"), None, mine, loss))
    return [*instrs, *step.tally(loss, loss, plan.tally_axis)]


def _update(plan: Plan, task: Task, versions: _Versions) -> list[Instr]:
    """A stage's gradient of one microbatch, summed over the ranks that share the batch out, and the
    update by it."""
    s, mb = task.stage, task.mb
    gradients = {u: v.grad(u, mb) for u in stage_pieces(plan)[s]}
    instrs: list[Instr] = []
    for name, axis, together in stage_sums(plan, s):
        if axis and plan.gradient_ranks > 1:
            mine = [gradients[u] for u in together]
            total = [Value("gsum", (u, mb)) for u in together]
            instrs.append(_reduced((name, axis), mb, mine, total))
            gradients |= dict(zip(together, total, strict=True))
    k, every = versions.update(s), tuple(gradients.values())
    update = Instr(
        op=Op.O,
        where=stage_name(s),
        mb=mb,
        reads=(*(v.version(u, k) for u in gradients), *every),
        writes=tuple(v.version(u, k + 1) for u in gradients),
        frees=every,
    )
    return [*instrs, update]


def _reduced(
    where: tuple[str, str], mb: int | None, mine: Iterable[Value], total: Iterable[Value]
) -> Instr:
    name, axis = where
    return Instr(
        op=Op.ALL_REDUCE,
        where=name,
        mb=mb,
        lane=Lane.COMM,
        axis=axis,
        reads=tuple(mine),
        writes=tuple(total),
        frees=tuple(mine),
    )


def _freed_at_last_use(instrs: list[Instr], kept: Iterable[Value]) -> list[Instr]:
    """Old weights go with their last reader."""
    last = {
        value: i for i, instr in enumerate(instrs) for value in instr.reads if value.name == "w"
    }
    for value in kept:
        last.pop(value, None)
    freed: dict[int, list[Value]] = {}
    for value, i in last.items():
        freed.setdefault(i, []).append(value)
    return [
        replace(instr, frees=(*instr.frees, *freed[i])) if i in freed else instr
        for i, instr in enumerate(instrs)
    ]

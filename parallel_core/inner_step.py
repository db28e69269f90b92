"""A tensor-parallel training step: the step of one slice, and the messages inside its tasks.

    F layer   ! all_reduce @tp, all_reduce @tp            after attention and after the MLP
    B layer   ! all_reduce @tp, all_reduce @tp
    F embed   ! all_reduce @tp                F head ! all_reduce @tp, three, of one number a token
    B head    ! all_reduce @tp

    with sp   F layer ! all_gather, reduce_scatter, all_gather, reduce_scatter
              B layer ! all_gather, all_gather, reduce_scatter, twice: what had entered is
                        gathered again, since only its shard was kept

The gather `again[mb]` is sequence parallelism's price. A layer that is computed again sends its
forward's messages again, and gathers no third time.

With overlap a gather runs under the product that it feeds, tile by tile; in the backward the
gather `again` under the product for dx, and the scatter of dx under the one for dw.

What is whole on every rank (norms) has the same gradient there, or under sp a part of it: those
parts are summed over tp once a step, in one message; so are key/value heads held in copies. The
norm of the gradient counts what is whole once. Shoeybi et al. 2019, arXiv:1909.08053; Korthikanti
et al. 2022, arXiv:2205.05198, section 4.2.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from parallel_core import data
from parallel_core import inner_shares as shares
from parallel_core import values as v
from parallel_core.data import step
from parallel_core.inner_shares import AGAIN, DENTER, DLEAVE, LEAVE, NUMBER
from parallel_core.params import units
from parallel_core.plan import Plan
from parallel_core.program import Instr, Message, Op, Program, Value

WHOLE, COPIES = "whole", "copies"
"""`where` of the sums over tp: parts of whole parameters, key/value copies."""


def inner_step(plan: Plan) -> Program:
    """The data-parallel step of a slice of the model on a part of the sequence, with the messages
    of tensor and context parallelism inside its tasks."""
    base = data.program(plan)
    places = [tuple(_slice_step(plan, base.ranks[0], place)) for place in range(plan.cp)]
    at = [plan.mesh.coordinate(rank).get("cp", 0) for rank in range(plan.world_size)]
    keeps = base.keeps
    if plan.tp > 1:
        mine = tuple(value for value in base.keeps[0] if value.name != "loss")
        keeps = ((*mine, v.TOTAL),) * plan.world_size
    name = " ".join(
        [base.name]
        + ([f"tp={plan.tp}"] if plan.tp > 1 else [])
        + (["sp"] if plan.sp else [])
        + ([f"cp={plan.cp} {plan.cp_method}"] if plan.cp > 1 else [])
    )
    return Program(plan.mesh, tuple(places[i] for i in at), base.holds, keeps, name)


def _slice_step(plan: Plan, instrs: Iterable[Instr], place: int) -> Iterator[Instr]:
    for instr in instrs:
        if instr.op in (Op.F, Op.B):
            yield replace(instr, inner=_inner(plan, instr, place))
        elif instr.op == Op.O and plan.tp > 1:
            yield from _before_update(plan, instr)
        else:
            yield instr


def _inner(plan: Plan, instr: Instr, place: int) -> tuple[Message, ...]:
    """The messages of one task, in order, each where it stands among the task's work."""
    first, *_, last = units(plan.model)
    forward = instr.op == Op.F
    if instr.where == first and plan.tp == 1:
        found = []
    elif instr.where == first:
        found = [(LEAVE, 1.0, 0.0)] if forward else [(DLEAVE, 0.0, 0.0)] if plan.sp else []
    elif instr.where == last:
        found = shares.head(plan, forward=forward)
    else:
        kind = plan.recompute_in(instr.where)
        found = shares.layer(plan, kind, forward=forward, place=place)
    return tuple(_message(plan, instr.mb or 0, *one) for one in found)


def _message(plan: Plan, mb: int, name: str, before: float, under: float) -> Message:
    """A gather hands over a shard, a scatter the whole; attention's name themselves."""
    if " " in name:
        op, axis, value = name.split()
        return Message(Op(op), axis, Value(value, (mb,)), before, under)
    if name == NUMBER:
        return Message(Op.ALL_REDUCE, "tp", Value("row", (mb,)), before, under)
    if not plan.sp:
        return Message(Op.ALL_REDUCE, "tp", Value("region", (mb,)), before, under)
    if name in (LEAVE, DENTER):
        return Message(Op.REDUCE_SCATTER, "tp", Value("region", (mb,)), before, under)
    carried = "again" if name == AGAIN else "cutregion"
    return Message(Op.ALL_GATHER, "tp", Value(carried, (mb,)), before, under)


def _before_update(plan: Plan, update: Instr) -> list[Instr]:
    """The sums over tp that an update needs, the norm, then the update itself."""
    gradients = [value for value in update.reads if value.name in ("grad", "gsum")]
    instrs: list[Instr] = []
    if plan.sp:
        instrs.append(_sum(WHOLE, "tp", gradients, v.WHOLE_SUM))
    if plan.kv_copies > 1:
        instrs.append(_sum(COPIES, "kv_copy", gradients, v.COPIES_SUM))
    marks = tuple(mark for instr in instrs for mark in instr.writes)
    loss = v.TOTAL_LOSS if plan.gradient_ranks > 1 else v.loss(plan.microbatches - 1)
    clips = (v.TOTAL,) if plan.clip else ()
    total = step.tally((*gradients, loss), (loss,), "tp")
    reads = (*update.reads, *marks, *clips)
    return [*instrs, *total, replace(update, reads=reads, frees=(*update.frees, *marks))]


def _sum(where: str, axis: str, gradients: list[Value], mark: str) -> Instr:
    """One message for all of them: their parts lie in many pieces, and are sent together.

    On the compute lane: nothing is left to overlap with it. It sums in place, and writes a mark a
    gradient.
    """
    return Instr(
        op=Op.ALL_REDUCE,
        where=where,
        axis=axis,
        reads=tuple(gradients),
        writes=tuple(Value(mark, gradient.at[:1]) for gradient in gradients),
        inner=(Message(Op.ALL_REDUCE, axis, Value(where)),),
    )

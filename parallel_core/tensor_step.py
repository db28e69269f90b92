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

from dataclasses import replace

from parallel_core import data
from parallel_core import tensor_shares as shares
from parallel_core import values as v
from parallel_core.data import step
from parallel_core.params import units
from parallel_core.plan import Plan
from parallel_core.program import Instr, Message, Op, Program, Value
from parallel_core.tensor_shares import AGAIN, DENTER, DLEAVE, LEAVE, NUMBER

WHOLE, COPIES = "whole", "copies"
"""`where` of the sums over tp: parts of whole parameters, key/value copies."""


def tensor_step(plan: Plan) -> Program:
    """The data-parallel step of a slice of the model, with tensor parallelism's messages."""
    base = data.program(plan)
    instrs = [one for instr in base.ranks[0] for one in _with_messages(plan, instr)]
    n = plan.world_size
    keeps = tuple(value for value in base.keeps[0] if value.name != "loss")
    return Program(
        plan.mesh,
        (tuple(instrs),) * n,
        base.holds,
        ((*keeps, v.TOTAL),) * n,
        f"{base.name} tp={plan.tp}" + (" sp" if plan.sp else ""),
    )


def _with_messages(plan: Plan, instr: Instr) -> list[Instr]:
    if instr.op in (Op.F, Op.B):
        return [replace(instr, inner=_inner(plan, instr))]
    return [*_before_update(plan, instr)] if instr.op == Op.O else [instr]


def _inner(plan: Plan, instr: Instr) -> tuple[Message, ...]:
    """The messages of one task, in order, each where it stands among the task's work."""
    first, *_, last = units(plan.model)
    forward = instr.op == Op.F
    if instr.where == first:
        found = [(LEAVE, 1.0, 0.0)] if forward else [(DLEAVE, 0.0, 0.0)] if plan.sp else []
    elif instr.where == last:
        found = shares.head(plan, forward=forward)
    else:
        kind = plan.recompute_in(instr.where)
        found = shares.layer(plan, kind, forward=forward)
    return tuple(_message(plan, instr.mb or 0, *one) for one in found)


def _message(plan: Plan, mb: int, name: str, before: float, under: float) -> Message:
    """A gather hands over a shard, a scatter the whole."""
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
        instrs.append(_sum(plan, WHOLE, "tp", gradients))
    if plan.kv_copies > 1:
        instrs.append(_sum(plan, COPIES, "kv_copy", gradients))
    loss = v.TOTAL_LOSS if plan.dp > 1 else v.loss(plan.microbatches - 1)
    clips = (v.TOTAL,) if plan.clip else ()
    total = step.tally((*gradients, loss), (loss,), "tp")
    return [*instrs, *total, replace(update, reads=(*update.reads, *clips))]


def _sum(plan: Plan, where: str, axis: str, gradients: list[Value]) -> Instr:
    """One message for all of them: their parts lie in many pieces, and are sent together.

    On the compute lane: nothing is left to overlap with it.
    """
    return Instr(
        op=Op.ALL_REDUCE,
        where=where,
        axis=axis,
        reads=tuple(gradients),
        inner=(Message(Op.ALL_REDUCE, axis, Value(where)),),
    )

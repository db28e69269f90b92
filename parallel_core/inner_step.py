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
from dataclasses import dataclass, replace

from parallel_core import inner_shares as shares
from parallel_core import values as v
from parallel_core.data import step
from parallel_core.data.blocks import block_of
from parallel_core.inner_shares import AGAIN, DENTER, LEAVE, LOGITS, NUMBER
from parallel_core.pieces import pieces
from parallel_core.plan import Balance, Plan
from parallel_core.program import Instr, Lane, Message, Op, Program, Value

WHOLE, COPIES = "whole", "copies"
"""`where` of the sums over tp: parts of whole parameters, key/value copies."""

GRADIENTS = frozenset({"grad", "gshard", "gsum", "gall", "tsum", "tall", "tie"})
"""Names of what an update reads of gradients."""

LOADS = "loads"
"""`where` of the sum of how many tokens asked for each expert."""


def inner_step(plan: Plan, base: Program) -> Program:
    """A program of F and B with the messages of tensor, context and expert parallelism inside its
    tasks; and before an update the sums over what holds the model apart."""
    if plan.tp == plan.cp == plan.ep == 1 and plan.model.balance != Balance.BIAS:
        return base
    known: dict[tuple[int, ...], tuple[Instr, ...]] = {}
    ranks = []
    for rank, instrs in enumerate(base.ranks):
        where = _Where.of(plan, rank)
        key = (id(instrs), where.part, where.shard)
        if key not in known:  # ranks that run the same share one tuple
            known[key] = tuple(_slice_step(plan, instrs, where))
        ranks.append(known[key])
    keeps = base.keeps
    if plan.model_axes and plan.pp == 1:
        mine = tuple(value for value in base.keeps[0] if value not in (v.TOTAL, v.TOTAL_LOSS))
        mine = tuple(value for value in mine if value.name != "loss")
        keeps = ((*mine, v.TOTAL),) * plan.world_size
    words = [f"tp={plan.tp}"] if plan.tp > 1 else []
    words += ["sp"] if plan.sp else []
    words += [f"cp={plan.cp} {plan.cp_method}"] if plan.cp > 1 else []
    return replace(base, ranks=tuple(ranks), keeps=keeps, name=" ".join([base.name, *words]))


@dataclass(frozen=True)
class _Where:
    """What of a rank's place its messages depend on: its part of the sequence, its shard."""

    part: int
    shard: int

    @classmethod
    def of(cls, plan: Plan, rank: int) -> _Where:
        place = plan.mesh.coordinate(rank)
        sums = plan.zero and plan.tp > 1
        return cls(place.get("cp", 0), place[plan.shard_axis] if sums else 0)


def _slice_step(plan: Plan, instrs: Iterable[Instr], where: _Where) -> Iterator[Instr]:
    parts = {piece.name: piece.units for piece in pieces(plan)}
    for instr in instrs:
        if instr.op in (Op.F, Op.B, Op.I) and instr.where in parts:
            forward = instr.op == Op.F
            stops = shares.task(plan, parts[instr.where], forward=forward, place=where.part)
            inner = tuple(_message(plan, instr.mb or 0, *stop) for stop in stops)
            yield replace(instr, inner=inner)
        elif instr.op == Op.NORM and not plan.asynchronous:  # it counts what is summed
            sums = _sums(plan, instr, where)
            marks = tuple(mark for one in sums for mark in one.writes)
            yield from sums
            yield replace(instr, reads=(*instr.reads, *marks))
        elif instr.op == Op.O:
            yield from _before_update(plan, instr, where)
        else:
            yield instr


def _message(plan: Plan, mb: int, name: str, before: float, under: float) -> Message:
    """A gather hands over a shard, a scatter the whole; attention's name themselves."""
    if " " in name:
        op, axis, value = name.split()
        return Message(Op(op), axis, Value(value, (mb,)), before, under)
    if name == LOGITS:
        return Message(Op.ALL_GATHER, "cp", Value(LOGITS, (mb,)), before, under)
    if name == NUMBER:
        return Message(Op.ALL_REDUCE, "tp", Value("row", (mb,)), before, under)
    if not plan.sp:
        return Message(Op.ALL_REDUCE, "tp", Value("region", (mb,)), before, under)
    if name in (LEAVE, DENTER):
        return Message(Op.REDUCE_SCATTER, "tp", Value("region", (mb,)), before, under)
    carried = "again" if name == AGAIN else "cutregion"
    return Message(Op.ALL_GATHER, "tp", Value(carried, (mb,)), before, under)


def _before_update(plan: Plan, update: Instr, where: _Where) -> list[Instr]:
    """The sums that an update needs over what holds the model apart, the norm, then itself."""
    sums = _sums(plan, update, where)
    marks = tuple(mark for one in sums for mark in one.writes)
    total, clips = list[Instr](), tuple[Value, ...]()
    if plan.asynchronous:
        pass  # nobody clips, and what an update needs is summed before it
    elif plan.pp > 1 or plan.zero:
        sums = []  # they came before its tally
    elif plan.model_axes:
        loss = v.TOTAL_LOSS if plan.gradient_ranks > 1 else v.loss(plan.microbatches - 1)
        clips = (v.TOTAL,) if plan.clip else ()
        total = step.tally((*_gradients(update), loss), (loss,), plan.model_axis)
    reads = (*update.reads, *marks, *clips)
    return [*sums, *total, replace(update, reads=reads, frees=(*update.frees, *marks))]


def _gradients(instr: Instr) -> tuple[Value, ...]:
    return tuple(value for value in instr.reads if value.name in GRADIENTS)


def _sums(plan: Plan, before: Instr, where: _Where) -> list[Instr]:
    """What is summed in place, once a step."""
    sums, gradients = [], _gradients(before)
    if plan.sums_whole:
        sums.append(_sum(plan, (WHOLE, "tp", v.WHOLE_SUM), before, where))
    if plan.kv_copies > 1:
        sums.append(_sum(plan, (COPIES, "kv_copy", v.COPIES_SUM), before, where))
    alone = plan.gradient_ranks == 1 and plan.loads_axis == "dp"
    if plan.model.balance == Balance.BIAS and not alone:
        sums.append(_loads(plan, gradients))
    return sums


def _loads(plan: Plan, gradients: tuple[Value, ...]) -> Instr:
    """How many tokens asked for each expert, summed over all ranks: a bias moves by them. Where a
    stage has two copies, loads of all layers travel, since the copies have other neighbours."""
    axis = plan.loads_axis
    mine = tuple(dict.fromkeys(gradient.at[0] for gradient in gradients if gradient.at))
    return Instr(
        op=Op.ALL_REDUCE,
        where=LOADS,
        lane=Lane.COMM,  # where all that is summed over dp is: one axis, one order
        axis=axis,
        reads=gradients,
        writes=(v.MOVED,),
        inner=(Message(Op.ALL_REDUCE, axis, Value(v.MOVED.name, mine if axis == "dp" else ())),),
    )


def _sum(plan: Plan, what: tuple[str, str, str], before: Instr, where: _Where) -> Instr:
    """One message for all of them: their parts lie in many pieces, and are sent together.

    On the compute lane: nothing is left to overlap with it. It sums in place, and writes a mark a
    gradient. What it hands over is named by the pieces whose parts it holds; of ZeRO's shards, by
    which of them, and by their blocks.
    """
    (name, axis, mark), gradients = what, _gradients(before)
    number = () if before.mb is None else (before.mb,)  # updates of every microbatch
    pieces_here = tuple(dict.fromkeys(gradient.at[0] for gradient in gradients if gradient.at))
    held = Value(name, pieces_here)
    if plan.zero:
        cut = tuple(dict.fromkeys(block_of(plan, u) for u in pieces_here))
        held = Value(f"{name}_shard", (where.shard, *cut))
    return Instr(
        op=Op.ALL_REDUCE,
        where=name,
        mb=before.mb,
        axis=axis,
        reads=gradients,
        writes=tuple(Value(mark, (u, *number)) for u in pieces_here),
        inner=(Message(Op.ALL_REDUCE, axis, held),),
    )

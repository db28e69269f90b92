"""Naive data parallelism: finish the backward, then sum one parameter after another.

The order it runs:

    layers=1 dp=2
    compute  F embed, F layer0, F head, B head, B layer0, B embed,
             wait head, wait layer0, wait embed, O weights
    comm     all_reduce loss, all_reduce head, all_reduce layer0, all_reduce embed

The sum of a unit is one message a parameter. Each pays its latency, and none of them runs while
there is something to compute. Li et al. 2020, PyTorch Distributed, section 3.2.1,
arXiv:2006.15704.
"""

from __future__ import annotations

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.pieces import Piece, pieces
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Message, Op, Program


def naive(plan: Plan) -> Program:
    """g[u]+dp -> g[u], parameter by parameter, after the whole backward."""
    shape = step.Shape.of(plan)
    instrs = []
    for mb in range(plan.microbatches):
        instrs += step.forward(shape, mb) + step.backward(shape, mb)
    instrs.append(step.reduce_loss(shape))
    every = pieces(plan)
    for u in reversed(range(len(every))):
        if every[u].axis and every[u].specs:
            instrs += _sum_unit(shape, u, every[u])
    instrs.append(step.optimizer(shape, step.summed(plan)))
    return step.replicate(plan, instrs, f"dp naive m={plan.microbatches}")


def _sum_unit(shape: step.Shape, u: int, piece: Piece) -> list[Instr]:
    whole_backward = v.grad(0, shape.microbatches - 1)  # the last gradient to be complete
    mine, summed, where = v.grad(u, shape.microbatches - 1), v.gsum(u), shape.units[u]
    parts = range(len(piece.specs))
    messages = tuple(Message(Op.ALL_REDUCE, piece.axis, v.part(u, i)) for i in parts)
    after = () if mine == whole_backward else (whole_backward,)
    return [
        Instr(
            op=Op.ALL_REDUCE,
            where=where,
            lane=Lane.COMM,
            axis=piece.axis,
            reads=(mine, *after),
            writes=(summed,),
            frees=(mine,),
            inner=messages,
        ),
        Instr(op=Op.WAIT, where=where, reads=(summed,)),
    ]

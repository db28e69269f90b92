"""One training step of a rank on its own: forward and backward of each microbatch, unit by unit.

    layers=1 microbatches=2
    compute  F embed mb0, F layer0 mb0, F head mb0, B head mb0, B layer0 mb0, B embed mb0,
             F embed mb1, F layer0 mb1, F head mb1, B head mb1, B layer0 mb1, B embed mb1,
             O weights

The backward of unit u in the last microbatch completes grad[u]: from there on it may be summed
over ranks. How, is what naive.py and bucketed.py differ in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallel_core import values as v
from parallel_core.params import ParamSpec
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Op, Program, Value


@dataclass(frozen=True)
class Shape:
    """What a builder needs of a plan: the names of its units (or of the parts it is cut into),
    microbatches, whether the head is tied."""

    units: tuple[str, ...]
    microbatches: int
    tied: bool

    @classmethod
    def of(cls, plan: Plan) -> Shape:
        """The shape of a plan's step."""
        names = tuple(piece.name for piece in pieces(plan))
        return cls(names, plan.microbatches, plan.model.tied)

    @property
    def head(self) -> int:
        """The index of the last unit."""
        return len(self.units) - 1


def specs_by_unit(plan: Plan) -> tuple[tuple[ParamSpec, ...], ...]:
    """The parameters of each piece (a unit, where there is no pipeline), in forward order."""
    return tuple(piece.specs for piece in pieces(plan))


def forward(shape: Shape, mb: int) -> list[Instr]:
    """The forward of one microbatch, embedding to loss."""
    return [_forward(shape, mb, u) for u in range(len(shape.units))]


def backward(shape: Shape, mb: int, *, fresh: bool = False) -> list[Instr]:
    """The backward of one microbatch, head to embedding.

    `fresh` gradients are the microbatch's own; others add to those of the microbatch before.
    """
    return [_backward(shape, mb, u, fresh) for u in reversed(range(len(shape.units)))]


def _forward(shape: Shape, mb: int, u: int) -> Instr:
    reads = [v.ids(mb) if u == 0 else v.act(mb, u - 1), v.weight(u)]
    writes = [v.saved(mb, u), v.act(mb, u)]
    frees = [v.act(mb, u - 1)] if u else []
    if u == shape.head:
        last = [v.loss(mb - 1)] if mb else []
        reads += [v.ids(mb), *([v.weight(0)] if shape.tied else []), *last]
        writes = [v.saved(mb, u), v.loss(mb)]
        frees += last
    return _compute(Op.F, shape.units[u], mb, reads, writes, frees)


def _backward(shape: Shape, mb: int, u: int, fresh: bool) -> Instr:
    before = [v.grad(u, mb - 1)] if mb and not fresh else []
    reads = [v.saved(mb, u), v.weight(u), *before]
    writes = [v.grad(u, mb)]
    frees = [v.saved(mb, u), *before]
    if u < shape.head:
        reads.append(v.dact(mb, u))
        frees.append(v.dact(mb, u))
    if u > 0:
        writes.append(v.dact(mb, u - 1))
    if shape.tied and u == shape.head:
        reads.append(v.weight(0))
        writes.append(v.tie(mb))
    if shape.tied and u == 0:
        reads.append(v.tie(mb))
        frees.append(v.tie(mb))
    return _compute(Op.B, shape.units[u], mb, reads, writes, frees)


def optimizer(shape: Shape, gradients: Sequence[Value]) -> Instr:
    """The update of every weight from the gradients given, one a unit."""
    old = [v.weight(u) for u in range(len(shape.units))]
    new = [v.updated(u) for u in range(len(shape.units))]
    return _compute(Op.O, "weights", None, [*old, *gradients], new, [*old, *gradients])


def summed(plan: Plan) -> list[Value]:
    """The complete gradient of every unit: summed over ranks, but where one rank has it."""
    last = plan.microbatches - 1
    return [
        v.gsum(u) if piece.axis and piece.specs else v.grad(u, last)
        for u, piece in enumerate(pieces(plan))
    ]


def reduce_loss(shape: Shape) -> Instr:
    """The sum of the ranks' losses: a scalar, booked as control traffic."""
    mine = v.loss(shape.microbatches - 1)
    return Instr(
        op=Op.ALL_REDUCE,
        where="loss",
        lane=Lane.COMM,
        axis="dp",
        reads=(mine,),
        writes=(v.TOTAL_LOSS,),
        frees=(mine,),
    )


TALLY = "tally"
"""`where` of the message that sums loss and gradient norm over what shares a model."""


def tally(reads: Sequence[Value], frees: Sequence[Value], axis: str) -> list[Instr]:
    """Loss and squared gradient norm, summed over `axis`: two numbers, control traffic."""
    norm = Instr(op=Op.NORM, where=TALLY, reads=tuple(reads), writes=(v.TALLY,), frees=tuple(frees))
    total = Instr(
        op=Op.ALL_REDUCE,
        where=TALLY,
        lane=Lane.COMM,
        axis=axis,
        reads=(v.TALLY,),
        writes=(v.TOTAL,),
        frees=(v.TALLY,),
    )
    return [norm, total]


def replicate(plan: Plan, instrs: Sequence[Instr], name: str) -> Program:
    """The program in which every rank of the mesh runs the same instructions."""
    shape, n = Shape.of(plan), plan.world_size
    every = range(len(shape.units))
    tokens = [v.ids(mb) for mb in range(shape.microbatches)]
    holds = (*tokens, *(v.weight(u) for u in every))
    alone = v.loss(shape.microbatches - 1)
    total = v.TOTAL_LOSS if any(i.where == "loss" for i in instrs) else alone
    keeps = (*tokens, *(v.updated(u) for u in every), total)
    return Program(plan.mesh, (tuple(instrs),) * n, (holds,) * n, (keeps,) * n, name)


def _compute(
    op: Op,
    where: str,
    mb: int | None,
    reads: list[Value],
    writes: list[Value],
    frees: list[Value],
) -> Instr:
    return Instr(
        op=op, where=where, mb=mb, reads=tuple(reads), writes=tuple(writes), frees=tuple(frees)
    )

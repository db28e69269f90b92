"""What expert parallelism puts into a step: tokens that travel between the pieces of a layer.

    compute  F layer0 | F layer0.experts | F layer1 ...
    tokens      all_to_all dispatch   all_to_all combine

Between a piece that routes and one that holds experts, and between that and the one that adds up,
rows travel over ep, and before them how many each rank sends to each; what goes past the experts
stays on the rank. A backward sends the gradients of
rows the same ways back. The messages have a lane of their own, so whatever else a rank can compute
meanwhile it does. Lepikhin et al. 2020, arXiv:2006.16668, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from parallel_core import values as v
from parallel_core.expert.ways import ACROSS, INSIDE, WHOLE
from parallel_core.pieces import Piece, pieces
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Message, Op, Program, Value

DISPATCH, COMBINE = ".dispatch", ".combine"
"""Ends of the names of the two messages of a layer."""


def with_tokens(plan: Plan, program: Program) -> Program:
    """The program with the messages of its experts; itself where each rank has all of them."""
    if plan.ep == 1:
        return program
    travel = _Travel(plan)
    known: dict[int, tuple[Instr, ...]] = {}
    for instrs in program.ranks:
        if id(instrs) not in known:  # ranks that run the same share one tuple
            known[id(instrs)] = tuple(travel.all(instrs))
    ranks = tuple(known[id(instrs)] for instrs in program.ranks)
    mine = tuple(u for u, piece in enumerate(travel.every) if piece.holds_experts)
    name = f"{program.name} ep={plan.ep}"
    return replace(program, ranks=ranks, name=name, apart=(("ep", mine),))


def layer_of(piece: Piece) -> str:
    """The layer whose tokens leave at the end of a piece."""
    return piece.units[-1].split(".")[0]


class _Travel:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.every = plan, pieces(plan)
        self.numbers = {piece.name: u for u, piece in enumerate(self.every)}

    def all(self, instrs: Iterable[Instr]) -> Iterator[Instr]:
        for instr in instrs:
            if instr.op == Op.F and instr.where in self.numbers:
                yield from self._forward(instr, self.numbers[instr.where])
            elif instr.op in (Op.B, Op.I) and instr.where in self.numbers:
                yield from self._backward(instr, self.numbers[instr.where])
            else:
                yield instr

    def _leaves(self, u: int) -> bool:
        """Whether what piece u makes travels."""
        return u >= 0 and (self.every[u].routes or self.every[u].holds_experts)

    def _forward(self, instr: Instr, u: int) -> Iterator[Instr]:
        mb, piece = instr.mb or 0, self.every[u]
        reads, writes, frees = [*instr.reads], [*instr.writes], [*instr.frees]
        if piece.joins:
            reads.append(v.skip(mb, u - 2))
            frees.append(v.skip(mb, u - 2))
        if not self._leaves(u):
            yield _with(instr, reads, writes, frees)
            return
        out, arrives = v.rows(mb, u), v.act(mb, u)
        leaving = [out, v.skip(mb, u)] if piece.routes else [out]
        at = writes.index(arrives)
        writes[at : at + 1] = leaving
        yield _with(instr, reads, writes, frees)
        yield from journey_of(self.plan, u, mb, forward=True)

    def _backward(self, instr: Instr, u: int) -> Iterator[Instr]:
        mb, piece = instr.mb or 0, self.every[u]
        reads, writes, frees = [*instr.reads], [*instr.writes], [*instr.frees]
        if piece.routes:
            reads.append(v.dskip(mb, u))
            frees.append(v.dskip(mb, u))
        if piece.joins:
            writes.append(v.dskip(mb, u - 2))
        if not self._leaves(u - 1):
            yield _with(instr, reads, writes, frees)
            return
        out, arrives = v.drows(mb, u - 1), v.dact(mb, u - 1)
        yield _with(instr, reads, [out if w == arrives else w for w in writes], frees)
        yield from journey_of(self.plan, u - 1, mb, forward=False)


def journey_of(plan: Plan, u: int, mb: int, *, forward: bool) -> Iterator[Instr]:
    """The messages between piece u and the next one: rows, or their gradients, in one hop or two.

    To the experts first inside a node, then across; home the other way round.
    """
    piece = pieces(plan)[u]
    way = DISPATCH if piece.routes else COMBINE
    axes = [WHOLE] if plan.ep_node is None else [INSIDE, ACROSS]
    if forward != (way == DISPATCH):
        axes.reverse()
    if forward:
        values = [v.rows(mb, u), *([v.hop(mb, u)] if len(axes) > 1 else []), v.act(mb, u)]
    else:
        values = [v.drows(mb, u), *([v.dhop(mb, u)] if len(axes) > 1 else []), v.dact(mb, u)]
    counts = (Value("counts", (mb,)),) if forward and way == DISPATCH else ()
    for axis, out, into in zip(axes, values, values[1:], strict=False):
        told = (*counts, out) if counts else ()
        yield Instr(
            op=Op.ALL_TO_ALL,
            where=layer_of(piece) + way,
            mb=mb,
            lane=Lane.TOKENS,
            axis=axis,
            reads=(out,),
            writes=(into,),
            frees=(out,),
            inner=tuple(Message(Op.ALL_TO_ALL, axis, value) for value in told),
        )


def _with(instr: Instr, reads: list[Value], writes: list[Value], frees: list[Value]) -> Instr:
    return replace(instr, reads=tuple(reads), writes=tuple(writes), frees=tuple(frees))

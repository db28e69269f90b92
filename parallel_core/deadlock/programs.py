"""Careless orders that hang on NCCL, as programs; and each of them cured.

    send-send              both neighbours send first           one of them receives first
    collective-order       tp then dp here, dp then tp there    the same order everywhere
    empty-expert           no token, so no all-to-all           join with no rows
    empty-expert-backward  a result nobody uses has no backward keep it in the graph, times zero

Only the messages are in them. Buffered sends and collectives in the background hide the first two;
the last two leave the others standing whatever the backend does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from parallel_core.mesh import Mesh
from parallel_core.program import Instr, Message, Op, Program, Value

EMPTY = 3
"""The rank to whose expert no token goes, and whose own tokens all go nowhere."""


@dataclass(frozen=True)
class Case:
    """One careless order: `careless` hangs, `cured` does not; `story` and `cure` say why."""

    name: str
    story: str
    cure: str
    careless: Callable[[], Program]
    cured: Callable[[], Program]


def _value(name: str, *at: int) -> Value:
    return Value(name, at)


def send_send(*, careful: bool = False) -> Program:
    """Two pipeline neighbours in the steady phase: an activation forward, a gradient back.

    careless   rank 0   send act mb1   recv dact mb0        rank 1   send dact mb0   recv act mb1
    cured      rank 0   send act mb1   recv dact mb0        rank 1   recv act mb1   send dact mb0
    """
    act, dact = _value("act", 1), _value("dact", 0)
    first = (
        Instr(op=Op.SEND, where="act", mb=1, reads=(act,), peer=1),
        Instr(op=Op.RECV, where="dact", mb=0, writes=(dact,), peer=1),
    )
    second = (
        Instr(op=Op.SEND, where="dact", mb=0, reads=(dact,), peer=0),
        Instr(op=Op.RECV, where="act", mb=1, writes=(act,), peer=0),
    )
    return Program(
        Mesh((("pp", 2),)),
        (first, second[::-1] if careful else second),
        ((act,), (dact,)),
        ((act, dact),) * 2,
        "send-send",
    )


def collective_order(*, careful: bool = False) -> Program:
    """A 2 x 2 mesh: ranks 0 and 3 sum over tp and then over dp, ranks 1 and 2 the other way."""
    mesh = Mesh((("tp", 2), ("dp", 2)))
    given = (_value("x", 0), _value("x", 1))
    summed = (_value("sum", 0), _value("sum", 1))
    both = tuple(
        Instr(op=Op.ALL_REDUCE, where=where, axis=axis, reads=(given[i],), writes=(summed[i],))
        for i, (axis, where) in enumerate((("tp", "activation"), ("dp", "gradient")))
    )
    ranks = tuple(both if careful or rank in (0, 3) else both[::-1] for rank in range(mesh.size))
    return Program(mesh, ranks, (given,) * 4, ((*given, *summed),) * 4, "collective-order")


def empty_expert(*, careful: bool = False) -> Program:
    """Four experts on four ranks: rank 3 has nothing to send, and goes on to the gradients."""
    tokens, grads = _value("tokens"), _value("grads")
    dispatched, summed = _value("dispatched"), _value("sum")
    send = Instr(
        op=Op.ALL_TO_ALL, where="dispatch", axis="ep", reads=(tokens,), writes=(dispatched,)
    )
    sync = Instr(op=Op.ALL_REDUCE, where="gradient", axis="dp", reads=(grads,), writes=(summed,))
    joins = [careful or rank != EMPTY for rank in range(4)]
    return Program(
        _experts(),
        tuple((send, sync) if join else (sync,) for join in joins),
        ((tokens, grads),) * 4,
        tuple((tokens, grads, summed, *((dispatched,) if join else ())) for join in joins),
        "empty-expert",
    )


def empty_expert_backward() -> Program:
    """The same with autograd: every rank's B is to send the gradients back.

    The program is legal as it is written. On the rank whose output nobody uses, autograd leaves
    the all-to-all out of the backward: what runs is another program.
    """
    tokens, out, grads = _value("tokens"), _value("out"), _value("grads")
    dispatched, returned, summed = _value("x"), _value("dx"), _value("sum")
    each = (
        Instr(
            op=Op.F,
            where="experts",
            reads=(tokens,),
            writes=(out,),
            inner=(Message(Op.ALL_TO_ALL, "ep", dispatched),),
        ),
        Instr(
            op=Op.B,
            where="experts",
            reads=(out,),
            writes=(grads,),
            inner=(Message(Op.ALL_TO_ALL, "ep", returned),),
        ),
        Instr(op=Op.ALL_REDUCE, where="gradient", axis="dp", reads=(grads,), writes=(summed,)),
    )
    keeps = (tokens, out, grads, summed)
    return Program(_experts(), (each,) * 4, ((tokens,),) * 4, (keeps,) * 4, "empty-expert-backward")


def _experts() -> Mesh:
    """Four ranks that are experts to one another and data-parallel replicas of all else."""
    return Mesh((("ep", 4),), joins=(("dp", ("ep",)),))


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "send-send",
            "two pipeline neighbours both send before they receive",
            "let one of them receive first, or hand over both messages as one group",
            send_send,
            lambda: send_send(careful=True),
        ),
        Case(
            "collective-order",
            "half of the ranks sum over tp and then dp, the others over dp and then tp",
            "call the collectives of all groups in one order on every rank",
            collective_order,
            lambda: collective_order(careful=True),
        ),
        Case(
            "empty-expert",
            f"rank {EMPTY} has no token to send and skips the all-to-all",
            "join every all-to-all, with no rows if there are none",
            empty_expert,
            lambda: empty_expert(careful=True),
        ),
        Case(
            "empty-expert-backward",
            f"the expert's output is not used on rank {EMPTY}, so its backward never runs there",
            "keep the output in the graph, times zero if need be",
            empty_expert_backward,
            empty_expert_backward,
        ),
    )
}
"""The reading list: every case by the name the command knows it by."""

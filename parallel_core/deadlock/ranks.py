"""One rank of a deadlock: it runs its part of a case's program, message by message, for real.

Strictly, through a StrictComm; or `buffered`, as a program that was only ever tried on gloo: sends
and all-reduces begin and return, and are waited for at the end. Nothing is predicted here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.comm import Comm
from parallel_core.deadlock.programs import CASES, EMPTY
from parallel_core.deadlock.rendezvous import PATIENCE_S, Deadlock, StrictComm
from parallel_core.deadlock.standing import Board
from parallel_core.program import Instr, Op, Program, Value
from parallel_core.rank import Rank

ROWS = 8  # of every message but the all-to-all's


def play(
    rank: Rank,
    *,
    case: str,
    cured: bool = False,
    buffered: bool = False,
    patience_s: float = PATIENCE_S,
) -> None:
    """Run this rank's part of a case.

    Emits {"event": "begun"} when all have met; at its end {"event": "ended"}, or "deadlock" with
    where every rank stands, and the rank's posts.
    """
    rank.init()
    found = CASES[case]
    program = found.cured() if cured else found.careless()
    instrs = program.ranks[rank.rank]
    rank.describe([instr.label for instr in instrs])
    board = Board(rank.dir / "standing", rank.world_size)
    comm: BufferedComm | StrictComm = (
        BufferedComm(program.mesh, rank.rank)
        if buffered
        else StrictComm(program.mesh, rank.rank, board, patience_s=patience_s)
    )
    rank.emit({"event": "begun"})
    player = Player(program, rank.rank, comm, careful=cured)

    def run() -> None:
        for index, instr in enumerate(instrs):
            rank.beat(0, index)
            player.run(instr)
        comm.leave()

    tell(rank, comm, run)


def tell(rank: Rank, comm: Comm, run: Callable[[], dict[str, Any] | None]) -> None:
    """Run, and emit how it ended: "ended" with what `run` gives, or "deadlock" with where every
    rank stands; and this rank's calls, where `comm` has kept them."""
    told: dict[str, Any] = {"event": "ended"}
    try:
        told |= run() or {}
    except Deadlock as error:
        told = {"event": "deadlock", "stands": [s.as_json() for s in error.graph.stands]}
    posts = [asdict(post) for post in comm.posts] if isinstance(comm, StrictComm) else []
    rank.emit({**told, "posts": posts})


class BufferedComm(Comm):
    """A Comm whose sends and all-reduces return at once; `leave` waits for them."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self.doing = ""
        self._begun: list[Any] = []

    def send(self, x: Tensor, peer: int, *, name: str = "", control: bool = False) -> None:
        """Begin to send x, which must outlive the message."""
        self._begun.append(dist.isend(x, peer))

    def recv(self, x: Tensor, peer: int, *, name: str = "", control: bool = False) -> Tensor:
        """Fill x with what `peer` sends next."""
        dist.recv(x, peer)
        return x

    def all_reduce(self, x: Tensor, axis: str, *, name: str = "", control: bool = False) -> Tensor:
        """Begin to sum x."""
        self._begun.append(dist.all_reduce(x, group=self._groups[axis], async_op=True))
        return x

    def leave(self) -> None:
        """Wait for everything that was begun."""
        for work in self._begun:
            work.wait()


class Player:
    """Runs the instructions of one rank; a value is rows of the rank's number plus one."""

    def __init__(self, program: Program, rank: int, comm: Any, *, careful: bool) -> None:
        self._rank, self._comm, self._careful = rank, comm, careful
        held = {value: torch.full((ROWS, 4), rank + 1.0) for value in program.holds[rank]}
        self.store: dict[Value, Tensor] = held
        # one row to everybody, but to and from the rank that has no token
        self._sizes = [int(EMPTY not in (rank, peer)) for peer in range(program.mesh.size)]

    def run(self, instr: Instr) -> None:
        """One instruction, to its end."""
        name = instr.label
        if instr.op.is_message:  # a name that both ends have: `act mb1`
            name = name.removeprefix(instr.op.value).strip()
        self._comm.doing = name
        x = self.store[instr.reads[0]] if instr.reads else torch.empty(ROWS, 4)
        match instr.op:
            case Op.SEND:
                assert instr.peer is not None
                self._comm.send(x, instr.peer, name=name)
            case Op.RECV:
                assert instr.peer is not None
                x = self._comm.recv(x, instr.peer, name=name)
            case Op.ALL_REDUCE:
                x = self._comm.all_reduce(x.clone(), instr.axis, name=name)
            case Op.ALL_TO_ALL:
                x = self._exchanged(x)
            case Op.F:
                x = self._forward(x)
            case _:
                x.backward()  # type: ignore[no-untyped-call]  # torch ships no types for it
        self.store.update(dict.fromkeys(instr.writes, x.detach() if instr.op != Op.F else x))

    def _exchanged(self, x: Tensor) -> Tensor:
        rows: Tensor = self._comm.all_to_all(x[: sum(self._sizes)], "ep", self._sizes, self._sizes)
        return rows

    def _forward(self, x: Tensor) -> Tensor:
        """The loss of what the experts gave back; a careless rank that got none leaves it out."""
        x = x.detach().requires_grad_()
        rows = _exchange(x, self._exchanged)
        if len(rows) or self._careful:
            return x.sum() + rows.sum()
        return x.sum()


class _Exchange(torch.autograd.Function):
    """An all-to-all whose backward is the same all-to-all, of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exchanged: Any) -> Tensor:
        ctx.exchanged, ctx.rows = exchanged, len(x)
        rows: Tensor = exchanged(x)
        return rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        back = ctx.exchanged(grads[0].contiguous())
        whole = back.new_zeros(ctx.rows, *back.shape[1:])
        whole[: len(back)] = back
        return whole, None


_exchange: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] = _Exchange.apply

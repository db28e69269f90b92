"""Messages that wait for each other: NCCL's semantics on CPU, with the deadlocks they bring.

A `StrictComm` is a Comm whose calls return only when every other end has been posted, and whose
calls run one after another, as kernels on one stream do:

    gloo, isend       returns at once: the bytes wait in the sender's memory until someone asks
    NCCL, send        occupies its stream until the receive runs on the other side
    here, send        returns when the receive has been posted

Two ranks that both send first stand still forever. Here they find that out: a rank that has waited
`patience_s` draws the wait-for graph of all ranks, and if it can never go on raises `Deadlock`,
which says where everybody stands. A deadlock once there stays, so nobody is accused in passing.

Messages grouped as one (`ncclGroupStart`, `batch_isend_irecv`) are not modelled: they are the
cure for the send-send case, beside receiving first on one side.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from torch import Tensor

from parallel_core.analysis.wait_for import Stand, State, WaitFor
from parallel_core.comm import Comm
from parallel_core.deadlock.standing import Board
from parallel_core.mesh import Mesh

POLL_S = 0.001
PATIENCE_S = 0.3
"""Seconds that a rank waits before it asks whether it waits in vain."""


class Deadlock(RuntimeError):
    """This rank can never go on; `graph` is where everybody stands, the message its sentence."""

    def __init__(self, graph: WaitFor) -> None:
        super().__init__(graph.sentence)
        self.graph = graph


@dataclass(kw_only=True)
class Post:
    """One call of this rank: what, where it met, and when; nanoseconds, 0 for never met."""

    op: str
    what: str
    axis: str
    members: tuple[int, ...]
    number: int
    t_post: int
    t_met: int = 0


class StrictComm(Comm):
    """A Comm whose every call meets its other ends first, by way of `board`.

    `posts` are this rank's calls in order, `doing` names those that have no name of their own;
    `leave` says that there will be no more.
    """

    def __init__(
        self, mesh: Mesh, rank: int, board: Board, *, patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__(mesh, rank)
        self.posts: list[Post] = []
        self.doing = ""
        self._board, self._patience_s = board, patience_s
        self._stand = Stand(rank=rank)
        board.write(self._stand)

    def send(self, x: Tensor, peer: int, *, name: str = "", control: bool = False) -> None:
        """Hand x to `peer`; returns when `peer` has posted the receive and taken it."""
        self._meet("send", "p2p", (self.rank, peer), name)
        super().send(x, peer, name=name, control=control)

    def recv(self, x: Tensor, peer: int, *, name: str = "", control: bool = False) -> Tensor:
        """Fill x with what `peer` sends next."""
        self._meet("recv", "p2p", (peer, self.rank), name)
        return super().recv(x, peer, name=name, control=control)

    def leave(self) -> None:
        """Say that this rank has ended and will post nothing more."""
        self._show(replace(self._stand, state=State.ENDED))

    def _compare(self, op: str, axis: str, x: Tensor, name: str = "") -> None:
        self._meet(op, axis, self.mesh.group(self.rank, axis), name)
        super()._compare(op, axis, x, name)

    def _meet(self, op: str, axis: str, members: tuple[int, ...], what: str) -> None:
        """Stand until every member has posted the call of the same number; Deadlock if never."""
        channel = channel_of(axis, members)
        number = self._stand.posted.get(channel, (0, ""))[0] + 1
        what = what or self.doing
        post = Post(
            op=op,
            what=what,
            axis=axis,
            members=members,
            number=number,
            t_post=time.perf_counter_ns(),
        )
        self.posts.append(post)
        self._show(
            Stand(
                rank=self.rank,
                state=State.WAITS,
                op=op,
                what=what,
                channel=channel,
                members=members,
                number=number,
                posted={**self._stand.posted, channel: (number, op)},
            )
        )
        self._stand_until_met(time.monotonic())
        post.t_met = time.perf_counter_ns()
        self._show(Stand(rank=self.rank, posted=self._stand.posted))

    def _stand_until_met(self, since: float) -> None:
        ask = since + self._patience_s
        while True:
            graph, versions = self._board.snapshot()
            if not any(arrow.waiter == self.rank for arrow in graph.arrows):
                return
            now = time.monotonic()
            if now >= ask and self.rank in graph.deadlocked:
                if self._board.snapshot()[1] == versions:
                    raise Deadlock(self._waited(graph, now - since))
                ask = now + self._patience_s
            time.sleep(POLL_S)

    def _waited(self, graph: WaitFor, seconds: float) -> WaitFor:
        """The same graph, with how long this rank has stood."""
        mine = replace(graph.stands[self.rank], waited_s=round(seconds, 3))
        return WaitFor(tuple(mine if s.rank == self.rank else s for s in graph.stands))

    def _show(self, stand: Stand) -> None:
        self._stand = stand
        self._board.write(stand)


def channel_of(axis: str, members: tuple[int, ...]) -> str:
    """The name of what numbers a call: `dp 0,2`, or `0 to 1` for a pair in one direction."""
    if axis == "p2p":
        return f"{members[0]} to {members[1]}"
    return f"{axis} {','.join(map(str, members))}"

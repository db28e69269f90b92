"""One rank of a real training under NCCL's semantics: the kernels of every run, strict messages.

Nothing of the training is replaced but its Comm and the number of its lanes: what hangs here
hangs with these kernels, on this data, in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.activations.offload import leaving
from parallel_core.comm import Comm
from parallel_core.deadlock.layouts import case_of_layout
from parallel_core.deadlock.ranks import tell
from parallel_core.deadlock.rendezvous import PATIENCE_S, StrictComm
from parallel_core.deadlock.standing import Board
from parallel_core.kernel_choice import kernels_of
from parallel_core.lanes import Lanes
from parallel_core.plan import Plan
from parallel_core.rank import Rank
from parallel_core.runtime import loss_and_norm


class EagerComm(Comm):
    """A Comm whose sends return at once, as `isend` does; what is sent is kept until `leave`."""

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self._begun: list[tuple[Any, Tensor]] = []

    def send(self, x: Tensor, peer: int, *, name: str = "", control: bool = False) -> None:
        """Begin to send x."""
        self._begun.append((dist.isend(x.contiguous(), peer), x))

    def recv(self, x: Tensor, peer: int, *, name: str = "", control: bool = False) -> Tensor:
        """Fill x with what `peer` sends next."""
        dist.recv(x, peer)
        return x

    def leave(self) -> None:
        """Wait for everything that was begun."""
        for work, _ in self._begun:
            work.wait()


def train(
    rank: Rank,
    *,
    plan: Mapping[str, Any],
    steps: int,
    cured: bool = False,
    buffered: bool = False,
    patience_s: float = PATIENCE_S,
) -> None:
    """Train `steps` steps on the processor as one rank of `plan`, its messages in line.

    `cured` keeps the plan's lanes and the usual Comm, `buffered` lets sends return at once. Emits
    what deadlock.ranks.play does; at the end with the losses.
    """
    chosen = Plan.of(**plan)
    rank.init()
    case = case_of_layout(chosen)
    instrs = (case.cured if cured else case.careless)().ranks[rank.rank]
    rank.describe([instr.label for instr in instrs])
    comm = _comm(rank, chosen, cured=cured, buffered=buffered, patience_s=patience_s)
    kernels = kernels_of(chosen)(chosen, rank.rank, comm, torch.device("cpu"))
    kernels.leave = leaving(instrs)
    names = [instr.label for instr in instrs]

    def beat(step: int, index: int) -> None:
        rank.beat(step, index)
        if isinstance(comm, StrictComm):
            comm.doing = names[index]

    lanes = Lanes(instrs, kernels.table(), beat=beat)
    rank.emit({"event": "begun"})
    losses: list[float] = []

    def run() -> dict[str, Any]:
        for step in range(steps):
            left = lanes.run(step, kernels.load(step))
            losses.append(loss_and_norm(chosen, kernels, left)[0])
        if isinstance(comm, StrictComm | EagerComm):
            comm.leave()
        return {"losses": losses}

    try:
        tell(rank, comm, run)
    finally:
        lanes.close()


def _comm(rank: Rank, plan: Plan, *, cured: bool, buffered: bool, patience_s: float) -> Comm:
    if cured:
        return Comm(plan.mesh, rank.rank)
    if buffered:
        return EagerComm(plan.mesh, rank.rank)
    board = Board(rank.dir / "standing", rank.world_size)
    return StrictComm(plan.mesh, rank.rank, board, patience_s=patience_s)

"""On real ranks: many products in one run, and two kernels with a fault in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parallel_core import loom_live
from parallel_core.loom.layout import AXIS
from parallel_core.program import Instr, Op
from parallel_core.rank import Rank


def every(rank: Rank, *, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each request one after the other, on the same ranks."""
    return [loom_live.run(rank, request=request) for request in requests]


class Chatty(loom_live.LoomKernels):
    """Sends something more after every message."""

    def message(self, instr: Instr, reads: Mapping[Any, Any]) -> Sequence[Any]:
        made = super().message(instr, reads)
        self.comm.all_reduce(made[1].clone(), AXIS, name="nobody asked")
        return made


class Forgetful(loom_live.LoomKernels):
    """Takes its own part for the sum, and sends nothing."""

    def message(self, instr: Instr, reads: Mapping[Any, Any]) -> Sequence[Any]:
        if instr.op != Op.ALL_REDUCE:
            return super().message(instr, reads)
        x = reads[instr.reads[0]]
        return [int(x.nbytes), self._note(self._steps[instr.where].writes, x)]


def faulty(rank: Rank, *, kind: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As `every`, with kernels that have a fault."""
    loom_live.LoomKernels = {"chatty": Chatty, "forgetful": Forgetful}[kind]
    return every(rank, requests=requests)

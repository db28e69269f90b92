"""A worker of a parameter server: pull, compute, push, as often as it is asked to.

`Part` is what every rank of such a run does, the server too: run its kernels, note, measure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from parallel_core import values as v
from parallel_core.data import server_step
from parallel_core.data.server_step import Roles
from parallel_core.parameter_server_kernels import ServerKernels, WorkerKernels
from parallel_core.plan import Server
from parallel_core.rank import Rank
from parallel_core.resident import state_bytes
from parallel_core.runtime import AFTERWARDS, kernel_bytes, measurements
from parallel_core.truth_beside import Snapshots
from parallel_core.unfolding import Unfolding, bare_label


class Part:
    """What worker and server have in common: their kernels, run and noted as they go."""

    def __init__(
        self,
        rank: Rank,
        kernels: WorkerKernels | ServerKernels,
        *,
        steps: int,
        memory: Callable[[], int],
    ) -> None:
        self.rank, self.steps, self.plan = rank, steps, kernels.plan
        self.roles = Roles.of(kernels.plan)
        self.snaps, self.peak = Snapshots(), 0
        everybody_once = server_step.program(kernels.plan, range(kernels.plan.dp))
        instrs = everybody_once.ranks[rank.rank]
        self.labels = list(dict.fromkeys(map(bare_label, instrs)))
        rank.describe([*self.labels, *AFTERWARDS])
        sync = torch.cuda.synchronize if kernels.device.type == "cuda" else _nothing
        self.hand = Unfolding(
            kernels.table(), self.labels, beat=rank.beat, memory=memory, sync=sync
        )
        self._state = kernels

    def run(self) -> dict[str, Any]:
        """All steps; the rank's measurements, as runtime.train returns them."""
        before = kernel_bytes()
        if self.plan.parameter_server == Server.SYNC:
            self.in_step()
        else:
            self.out_of_step()
        wire = kernel_bytes() - before
        self.hand.store.clear()
        self.rank.beat(self.steps, len(self.labels))
        return measurements(self._state, self._state.comm, self.snaps, self.peak, wire)

    def in_step(self) -> None:
        """The synchronous run."""
        raise NotImplementedError

    def out_of_step(self) -> None:
        """The asynchronous run."""
        raise NotImplementedError

    def findings(self, parity: bool, save: Mapping[str, str | None]) -> dict[str, Any]:
        """What this rank alone knows at the end."""
        return {}

    def tell(self) -> None:
        """Emit what was noted since the last time."""
        self.peak = max(self.peak, sum(state_bytes(self._state).values()))
        notes = self.hand.taken()
        self.rank.emit({"event": "notes", "rank": self.rank.rank, "notes": notes})


class Worker(Part):
    """Pulls, computes, pushes."""

    def __init__(self, rank: Rank, kernels: WorkerKernels, **more: Any) -> None:
        super().__init__(rank, kernels, **more)
        self.kernels = kernels

    def in_step(self) -> None:
        """One gradient a step, with everybody else."""
        instrs = server_step.synchronous(self.plan).ranks[self.rank.rank]
        for step in range(self.steps):
            self.hand.begin(step)
            self.hand.store = self.kernels.load(step)
            self.hand.run(instrs)
            self.tell()

    def out_of_step(self) -> None:
        """One gradient after another, until the server says that there are enough.

        Which update each will become is not known here: values are named by this worker's count.
        """
        for k in itertools.count():
            self.hand.round = k
            ticket, *rest = server_step.minibatch(self.roles, k, k)
            self.hand.run([ticket])
            if not self.kernels.goes_on:
                return self.tell()
            self.hand.store.update(self.kernels.load(k))
            self.hand.run(rest)
            del self.hand.store[v.ids(k)]
            self.tell()


def _nothing() -> None:
    """There is nothing to wait for."""

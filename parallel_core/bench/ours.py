"""Our side of a bench: a step of the live run, with program, lanes, recorder and emitted notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from parallel_core.activations.offload import leaving
from parallel_core.cases import program_of
from parallel_core.comm import Comm
from parallel_core.kernel_choice import kernels_of
from parallel_core.lanes import Lanes
from parallel_core.plan import Plan
from parallel_core.rank import Rank, choose_backend
from parallel_core.resident import live_bytes, state_bytes
from parallel_core.runtime import device_hooks, loss_and_norm

CPU = torch.device("cpu")


class Ours:
    """A rank of the plan's live run, a step at a time; `losses` and `norms` by step.

    The norms stay empty where `norm` says that nobody measures them. `memory` reads the live bytes
    for the recorder, by default those of the device. Close `lanes` at the end.
    """

    def __init__(
        self,
        plan: Plan,
        rank: Rank,
        device: torch.device = CPU,
        *,
        norm: bool = True,
        memory: Callable[[], int] | None = None,
    ) -> None:
        self.plan, self.rank = plan, rank
        self.losses, self.norms = list[float](), list[float]()
        staged = device != CPU and choose_backend(rank.local_size).staged
        self.comm = Comm(plan.mesh, rank.rank, staged=staged)
        self.kernels = kernels_of(plan)(plan, rank.rank, self.comm, device)
        self.kernels.measure_norm = norm
        instrs = program_of(plan).ranks[rank.rank]
        self.kernels.leave = leaving(instrs)
        rank.describe([instr.label for instr in instrs])
        reader, hooks = memory or live_bytes(device), device_hooks(device)
        self.lanes = Lanes(instrs, self.kernels.table(), beat=rank.beat, memory=reader, **hooks)

    def step(self) -> None:
        """One training step; the loss is the global batch's, the notes go to the owner."""
        step = len(self.losses)
        left = self.lanes.run(step, self.kernels.load(step))
        loss, norm = loss_and_norm(self.plan, self.kernels, left)
        self.losses.append(loss)
        if self.kernels.measure_norm:
            self.norms.append(norm)
        notes, self.lanes.notes = self.lanes.notes, []
        self.rank.emit({"event": "notes", "rank": self.rank.rank, "notes": notes})

    def gradients(self) -> Mapping[str, Tensor]:
        """This rank's of the last step, by parameter: its slices of them where they are cut."""
        return self.kernels.flat.named(self.kernels.flat.grads)

    def state_bytes(self) -> dict[str, int]:
        """Bytes of parameters, gradients and optimizer state, from the storages under them."""
        return state_bytes(self.kernels)

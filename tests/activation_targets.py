"""On real ranks: what every plan's forward keeps, piece by piece, on live tensors."""

from __future__ import annotations

from typing import Any

from parallel_core.comm import Comm
from parallel_core.kernel_choice import kernels_of
from parallel_core.plan import Plan
from parallel_core.rank import Rank, choose_backend
from parallel_core.resident import activations
from parallel_core.runtime import join


def kept(rank: Rank, *, plans: list[dict[str, Any]]) -> list[dict[str, int]]:
    """Bytes by piece, for each plan."""
    found = []
    for flat in plans:
        plan = Plan.of(**flat)
        device = join(rank, plan, choose_backend(rank.local_size))
        comm = Comm(plan.mesh, rank.rank)
        found.append(activations(kernels_of(plan)(plan, rank.rank, comm, device)))
    return found

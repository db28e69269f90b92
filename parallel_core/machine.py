"""What this machine bears: how many ranks, and how many bytes a plan may take in all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil

from parallel_core.activations.saved import saved_bytes
from parallel_core.fields import PlanError, nearest_where
from parallel_core.ledger import peak_state_bytes, predicted_memory
from parallel_core.params import units
from parallel_core.plan import DType, Plan

RANKS_PER_CORE = 8
"""More live ranks than this a core, and a step is all waiting: still correct, no longer useful."""

PROCESS_BYTES = 120 * 2**20
"""What a rank's process takes beside its tensors (torch itself is shared by fork)."""


def most_ranks() -> int:
    """The largest world size of a live run on this machine's processors."""
    return max(RANKS_PER_CORE * (os.cpu_count() or 1), 8)


def needed_bytes(plan: Plan) -> int:
    """Bytes a live run takes on this machine at its peak, over all ranks.

    State, kept activations, the logits and their gradient, and on rank 0 the single process that
    the run is compared with.
    """
    state = peak_state_bytes(predicted_memory(plan))
    kept = plan.rows_per_microbatch * plan.seq * plan.model.vocab * max(DType(plan.dtype).bytes, 4)
    each = state + sum(saved_bytes(plan, u) for u in units(plan.model)) + 3 * kept + PROCESS_BYTES
    return each * plan.world_size + 2 * state


def check_bears(plan: Plan, free: int | None = None) -> None:
    """Raises PlanError, with the nearest value that works, if a live run would not fit here."""
    if plan.world_size > most_ranks():
        fits = [d for d in _smaller(plan, "dp") if d <= most_ranks()]
        rule = f"is more ranks than this machine bears live ({most_ranks()})"
        raise PlanError("dp", plan.dp, rule, nearest_where(plan.dp, fits))
    limit = psutil.virtual_memory().available if free is None else free
    needed = needed_bytes(plan)
    if needed <= limit:
        return
    rule = f"needs about {needed / 2**30:.1f} GiB where {limit / 2**30:.1f} GiB are free"
    for name in ("global_batch", "dp", "seq", "layers", "hidden"):
        value = plan.flat()[name]
        fits = [v for v in _smaller(plan, name) if needed_bytes(plan.but(**{name: v})) <= limit]
        if fits:
            raise PlanError(name, value, rule, nearest_where(value, fits))
    raise PlanError("hidden", plan.model.hidden, rule, 128)


def _smaller(plan: Plan, name: str) -> Iterable[int]:
    """The smaller values of a field that make a legal plan: halves and multiples, largest first."""
    value = plan.flat()[name]
    tried = {value * k // 64 for k in range(1, 64)} | {2**k for k in range(20) if 2**k < value}
    for candidate in sorted((c for c in tried if 0 < c < value), reverse=True):
        try:
            plan.but(**{name: candidate})
        except PlanError:
            continue
        yield candidate

"""What this machine bears: how many ranks, and how many bytes a plan may take in all of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import partial

import psutil

from parallel_core.activations.saved import saved_bytes
from parallel_core.fields import PlanError, nearest_where
from parallel_core.hardware.cores import usable_cores
from parallel_core.ledger import predicted_memory
from parallel_core.plan import Dialect, DType, Plan

RANKS_PER_CORE = 8
"""More live ranks than this a core, and a step is all waiting: still correct, no longer useful."""

PLEASANT_PER_CORE = 2
"""Up to here a run answers while you watch."""

PROCESS_BYTES = 120 * 2**20
"""What a rank's process takes beside its tensors (torch itself is shared by fork)."""

COMPARED_AT_ONCE = 32768
"""Tokens up to which the single process of the comparison takes the global batch in one piece."""

SHRINKS = ("global_batch", "seq", "dp", "layers", "vocab", "ffn", "hidden")
"""The fields that memory depends on, in the order in which a reader would rather give them up."""


def most_ranks() -> int:
    """The largest world size of a live run on the cores that are ours; 8 work on any."""
    return max(int(RANKS_PER_CORE * usable_cores()), 8)


def pleasant_ranks() -> int:
    """The largest world size that still answers while you watch, on those cores."""
    return max(int(PLEASANT_PER_CORE * usable_cores()), 1)


def needed_bytes(plan: Plan) -> int:
    """Bytes a live run takes on this machine at its peak, over all ranks.

    While it trains: state, kept activations, the logits and their gradient on every rank. At the
    end, on rank 0: the single process it is compared with, and copies of gradients and weights.
    """
    memory = predicted_memory(plan)
    state = sum(map(sum, memory.values()))
    single = plan.single()
    alone = {kind: sizes[0] for kind, sizes in predicted_memory(single).items()}
    copies = 2 * (alone["params"] + alone["grads"])
    whole = plan.tokens_per_step <= COMPARED_AT_ONCE
    kept = _kept(single if whole else single.but(microbatches=plan.dp * plan.microbatches))
    comparing = state + sum(alone.values()) + copies + kept
    return max(state + _in_flight(plan), comparing) + PROCESS_BYTES * plan.world_size


def _in_flight(plan: Plan) -> int:
    """Bytes that all ranks keep for their backward at once, at most."""
    if plan.pp == 1:
        return _kept(plan) * plan.world_size
    order = plan.pipeline
    most = max(order.in_flight) * order.p / order.stages  # microbatches, on the fullest rank
    return int(_kept(plan) * plan.dp * max(most, 1))


def _kept(plan: Plan) -> int:
    """Bytes that one microbatch keeps over the whole model, with three copies of the logits."""
    logits = (
        plan.rows_per_microbatch * plan.seq * plan.model.vocab * max(DType(plan.dtype).bytes, 4)
    )
    ends = saved_bytes(plan, "embed") + saved_bytes(plan, "head")
    return ends + plan.model.layers * saved_bytes(plan, "layer0") + 3 * logits


def check_bears(plan: Plan, free: int | None = None) -> None:
    """Raises PlanError, with the nearest value that works, if a live run would not fit here.

    `free` is the memory it may take, bytes; by default what the machine has available now. Where
    no field alone can shrink enough, the error names the one that helps most, at its smallest.
    """
    if plan.world_size > most_ranks():
        axis = "pp" if plan.pp > most_ranks() or plan.dp == 1 else "dp"
        degree, other = plan.flat()[axis], plan.world_size // plan.flat()[axis]
        fits = [n for n in range(1, most_ranks() // other + 1) if _legal(plan, axis, n)]
        rule = f"makes {plan.world_size} ranks, more than this machine bears live ({most_ranks()})"
        raise PlanError(axis, degree, rule, nearest_where(degree, fits or [1]))
    limit = psutil.virtual_memory().available if free is None else free
    needed = needed_bytes(plan)
    if needed > limit:
        _refuse(plan, needed, limit)


def _refuse(plan: Plan, needed: int, limit: int) -> None:
    rule = f"needs about {_gib(needed)} where {_gib(limit)} are free"
    flat = plan.flat()
    least: dict[str, tuple[int, int]] = {}
    for name in SHRINKS:
        need = partial(_needed_with, plan, name)
        values = sorted(_smaller(plan, name))
        fits = values[: bisect_right(values, limit, key=need)]
        if fits:
            raise PlanError(name, flat[name], rule, fits[-1])
        if values:
            least[name] = (need(values[0]), values[0])
    if not least:
        raise ValueError(f"even the smallest plan {rule}; end other programs and try again")
    name = min(least, key=lambda field: least[field])
    more = f"{rule}, and other fields must shrink with it"
    raise PlanError(name, flat[name], more, least[name][1])


def _needed_with(plan: Plan, name: str, value: int) -> int:
    return needed_bytes(plan.but(**{name: value}))


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def _smaller(plan: Plan, name: str) -> Iterator[int]:
    """Smaller values of a field that make a legal plan: 64ths of it and powers of two."""
    value = plan.flat()[name]
    if value is None:
        return
    low, grain = 1, 1
    if name == "vocab":
        low = min(value, 256)  # below that, letters of the text would merge
    if name == "global_batch":
        grain = plan.dp * plan.microbatches
    if name == "hidden":
        grain = plan.model.heads * (2 if plan.model.dialect == Dialect.LLAMA else 1)
    tried = {value * k // 64 for k in range(1, 64)} | {2**k for k in range(20)} | {grain}
    for candidate in {c // grain * grain for c in tried}:
        if low <= candidate < value and _legal(plan, name, candidate):
            yield candidate


def _legal(plan: Plan, name: str, value: int) -> bool:
    try:
        plan.but(**{name: value})
    except PlanError:
        return False
    return True

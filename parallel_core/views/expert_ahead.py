"""What may wait on the host and what may go early, reckoned on the routing that a run has measured.

    record ── used       rows that each expert of a rank had, step by step ── buffering.py
           └─ history    experts that the tokens told one by one chose     ── speculation.py

A live run does neither: its experts lie on their ranks, its tokens leave after the router. So all
here is modelled on measured routing. All microbatches of a step count as one way there and back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parallel_core.expert.buffering import (
    ExpertBytes,
    best,
    lru,
    state_on_host,
    state_travels,
    touched,
)
from parallel_core.expert.placement import IntArray, static
from parallel_core.expert.speculation import GUESSERS, Outcome, speculate
from parallel_core.params import local, param_specs
from parallel_core.plan import DType, Plan, RouterKind
from parallel_core.quantities import bytes_text
from parallel_core.routing_record import RoutingRecord
from parallel_core.views.expert_rows import routing_of, tokens


@dataclass(frozen=True, kw_only=True)
class Held:
    """A device that keeps `size` experts: hits of `touches` in the whole run, bytes of a step.

    `lru` and `best` are hits of training with the state on the host, `once_lru` and `once_best`
    those of the forwards alone (half the touches). `fetched` goes with `lru`, `fetched_best` with
    `best`; `returned` is gradients. `travels` is bytes (in, out) where the state travels along.
    """

    size: int
    touches: int
    lru: int
    best: int
    once_lru: int
    once_best: int
    fetched: float
    fetched_best: float
    returned: float
    travels: tuple[float, float]


def used(record: RoutingRecord, rank: int) -> IntArray:
    """Rows of a rank's own experts: [steps, its layers, experts here]."""
    plan = record.plan
    rows = []
    for row in record.rows:
        group = plan.mesh.group(row.rank, "ep") if plan.ep > 1 else (row.rank,)
        if rank in group:
            rows.append((row.step, row.layer, row.kept[plan.experts_of(group.index(rank))]))
    layers = sorted({layer for _, layer, _ in rows})
    steps = sorted({step for step, _, _ in rows})
    found = np.zeros((len(steps), len(layers), plan.experts_here), dtype=np.int64)
    for step, layer, counts in rows:
        found[steps.index(step), layers.index(layer)] += counts
    return found


def weighs(plan: Plan) -> ExpertBytes:
    """What a rank has of one expert, kept as mixed precision keeps it under Adam."""
    specs = [local(plan, spec) for spec in param_specs(plan) if spec.is_expert]
    first = [spec for spec in specs if spec.unit == specs[0].unit]
    return ExpertBytes.adam(sum(math.prod(spec.shape[1:]) for spec in first))


def held(loads: IntArray, sizes: Sequence[int], each: ExpertBytes) -> list[Held]:
    """Every size of a buffer on the same loads [steps, layers, experts]."""
    return [_held(loads, size, each) for size in sizes]


def _held(loads: IntArray, size: int, each: ExpertBytes) -> Held:
    steps = max(len(loads), 1)
    on_host, along = (way(loads, size, each) for way in (state_on_host, state_travels))
    there = [touched(step) for step in loads]
    once = [key for touches in there for key in touches[: len(touches) // 2]]
    every = sum(map(len, there))
    most = sum(sum(best(touches, size)) for touches in there)
    return Held(
        size=size,
        touches=every,
        lru=sum(step.hits for step in on_host),
        best=most,
        once_lru=sum(lru(once, size)),
        once_best=sum(best(once, size)),
        fetched=sum(step.fetched for step in on_host) / steps,
        fetched_best=(every - most) * each.weights / steps,
        returned=sum(step.returned for step in on_host) / steps,
        travels=(
            sum(step.fetched for step in along) / steps,
            sum(step.returned for step in along) / steps,
        ),
    )


def sizes_of(loads: IntArray) -> list[int]:
    """Buffers of a quarter, a half and all of a rank's experts."""
    every = loads.shape[1] * loads.shape[2]
    return sorted({max(every // 4, 1), max(every // 2, 1), every})


def history(record: RoutingRecord) -> tuple[IntArray, IntArray]:
    """Experts [steps, layers, tokens, k] of the tokens told one by one, and each one's rank in its
    ep group [tokens]; nothing of experts that choose, whose tokens have no k choices each."""
    plan, k = record.plan, record.plan.model.top_k
    nothing = np.zeros((0, 0, 0, k), dtype=np.int64), np.zeros(0, dtype=np.int64)
    if plan.model.router == RouterKind.EXPERT_CHOICE:
        return nothing
    layers = sorted({row.layer for row in record.rows})
    each = [
        [routing_of(tokens(record, step=step, layer=layer), k) for layer in layers]
        for step in record.steps
    ]
    if len({chosen.shape for step in each for chosen, _ in step}) != 1:
        return nothing
    return np.array([[chosen for chosen, _ in step] for step in each]), each[0][0][1]


def early(record: RoutingRecord) -> dict[str, Outcome]:
    """What every guesser was worth, second step to last; empty where there is nothing to guess
    from. A token sends one copy to each other rank that it visits."""
    past, home = history(record)
    if len(past) < 2:
        return {}
    plan = record.plan
    lies, width = static(plan.model.experts, plan.ep), plan.model.hidden * DType(plan.dtype).bytes
    return {
        how: speculate(past, how, lies, home, bytes_a_copy=width)
        for how in GUESSERS
        if how != "following" or past.shape[1] > 1  # in a first layer it is `popular`
    }


def held_table(found: Sequence[Held]) -> list[dict[str, str]]:
    """The buffers in print, bytes a step."""
    return [
        {
            "experts on the device": f"{row.size}",
            "hits, LRU": f"{row.lru} of {row.touches}",
            "hits, Belady": f"{row.best} of {row.touches}",
            "weights in, gradients out": (
                f"{bytes_text(row.fetched)} · {bytes_text(row.returned)}"
            ),
            "state travels: in, out": " · ".join(bytes_text(way) for way in row.travels),
            "forward only: LRU, Belady": (
                f"{row.once_lru} · {row.once_best} of {row.touches // 2}"
            ),
        }
        for row in found
    ]


def early_table(found: dict[str, Outcome]) -> list[dict[str, str]]:
    """The guessers in print, bytes of all steps guessed."""
    return [
        {
            "guess": how,
            "wanted copies that were there": f"{got.hit_rate:.0%}",
            "sent for nothing": bytes_text(got.wasted_bytes),
            "sent in all": bytes_text(got.sent_bytes),
            "without guesses": bytes_text(got.wanted * got.bytes_a_copy),
        }
        for how, got in found.items()
    ]

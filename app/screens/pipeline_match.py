"""What is held equal when two schedules are compared: devices, stages, or memory."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from parallel_core.fields import PlanError
from parallel_core.pipeline.order import Order
from screens.pipeline_controls import MOST_RANKS, Choice


class Same(StrEnum):
    """What both schedules have alike."""

    DEVICES = "devices"
    STAGES = "stages"
    MEMORY = "memory"


def matched(choice: Choice, rival: str, same: Same) -> tuple[Choice, str]:
    """`rival` beside `choice`, and in one sentence what is equal and what is not.

    Raises PlanError where the rival cannot be had so.
    """
    wanted = replace(choice, name=rival)
    if same is Same.STAGES:
        return _same_stages(choice, wanted)
    if same is Same.MEMORY:
        return _same_memory(choice, wanted)
    _ = wanted.order
    return wanted, f"Both run on {choice.p} devices, {choice.m} microbatches a step."


def _same_stages(choice: Choice, wanted: Choice) -> tuple[Choice, str]:
    """The model is cut alike; a stage takes the same time wherever it runs."""
    stages, clock = choice.order.stages, choice.clock
    for p in sorted(range(1, MOST_RANKS + 1), key=lambda p: (abs(p - choice.p), p)):
        share = choice.p / p
        times = replace(
            clock, tf=clock.tf * share, ti=clock.ti * share, tw=clock.tw * share,
            slow=None if clock.slow is None or clock.slow >= p else clock.slow,
        )  # fmt: skip
        found = replace(wanted, p=p, clock=times)
        try:
            if found.order.stages == stages:
                return found, (
                    f"Both cut the model into {stages} stages, which take the same time wherever "
                    f"they run: {choice.name} on {choice.p} devices, {found.name} on {p}."
                )
        except PlanError:
            continue
    rule = f"has no number of devices, up to {MOST_RANKS}, on which {stages} stages fit"
    raise PlanError("against", wanted.name, rule, choice.name)


def _same_memory(choice: Choice, wanted: Choice) -> tuple[Choice, str]:
    """The rival gets as many microbatches as fit into what the first holds at its peak."""
    cap = peak(choice.order)
    for m in range(choice.m, 0, -1):
        found = replace(wanted, m=m, cap=cap)
        try:
            held = peak(found.order)
        except PlanError:
            continue
        if held <= cap + 1e-9:
            less = "" if m == choice.m else f", so {found.name} takes {m} of the {choice.m} a step"
            return found, (
                f"Both may hold {cap:g} microbatches on a rank, what {choice.name} needs at its "
                f"peak{less}. Compare the beats a microbatch."
            )
    rule = f"holds more than the {cap:g} microbatches of {choice.name}, however few it is given"
    raise PlanError("against", wanted.name, rule, choice.name)


def peak(order: Order) -> float:
    """Microbatches in flight on the fullest rank, stages counted by their share of a rank."""
    return max(order.in_flight) * order.p / max(order.stages, 1)

"""Expert buffering: cold experts wait on the host, and the device keeps those used last.

    touched  A B A C B A D A     buffer of 2     LRU    . . A . . . . A     2 hits of 8
                                                 best   . . A . . A . A     3

A buffer of n places works if experts are popular for a while. Which to throw out: the one not used
for longest (LRU), or, as a bound that needs the future, the one needed again last (Belady 1966,
doi:10.1147/sj.52.0078). Serving brings weights in and forgets them. Training must bring things
back, and that changes the account. A step touches every layer twice, forward and in reverse, and
afterwards *every* expert has changed: momentum and weight decay move also the one no token chose.

    state on the host   weights come in; an expert's gradient goes out once a step; the host
                        updates, so what the device kept is old: each step begins empty
    state travels       weights and optimizer state come in and go out together; an expert that is
                        here is updated here, as soon as its gradient is whole, the others on the
                        host; the buffer lives on (no clipping by a global norm, one microbatch)

Expert buffering: Huang et al. 2023, arXiv:2303.06182. Experts between device, host and disk in
training: Shen et al. 2022, SE-MoE, arXiv:2205.10034.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key", bound=Hashable)


def lru(touches: Sequence[Key], size: int) -> tuple[bool, ...]:
    """Touch by touch: was it here? What was not used for longest makes room.

    >>> sum(lru("ABACBADA", 2))
    2
    """
    held: OrderedDict[Key, None] = OrderedDict()
    return tuple(_touch(held, key, size)[0] for key in touches)


def best(touches: Sequence[Key], size: int, *, bypass: bool = False) -> tuple[bool, ...]:
    """The most hits any buffer could have: what is needed again last makes room.

    With `bypass` an expert may pass through without a place of its own.

    >>> sum(best("ABACBADA", 2)), sum(best("ABACBADA", 2, bypass=True))
    (3, 4)
    """
    following: dict[Key, int] = {}
    again = [0] * len(touches)
    for at in range(len(touches) - 1, -1, -1):
        again[at] = following.get(touches[at], len(touches))
        following[touches[at]] = at
    held: dict[Key, int] = {}  # what is here, and when it is needed next
    hits = []
    for at, key in enumerate(touches):
        hits.append(key in held)
        held[key] = again[at]
        if len(held) > size:
            out = max((k for k in held if bypass or k != key), key=lambda k: held[k])
            del held[out]
    return tuple(hits)


@dataclass(frozen=True, kw_only=True)
class ExpertBytes:
    """What one expert weighs: its weights, their gradient, the optimizer's state."""

    weights: int
    gradient: int
    state: int

    @classmethod
    def adam(cls, parameters: int) -> ExpertBytes:
        """bf16 weights, float32 gradient, master copy and two moments."""
        return cls(weights=2 * parameters, gradient=4 * parameters, state=12 * parameters)


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """One step of one rank: experts touched, found on the device, bytes in and out."""

    touches: int
    hits: int
    fetched: int
    returned: int

    @property
    def hit_rate(self) -> float:
        """Touches that needed no fetch, of all."""
        return self.hits / self.touches if self.touches else 1.0


def touched(loads: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The (layer, expert) a step touches, forward and then back: loads [layers, experts]."""
    there = [(int(layer), int(expert)) for layer, expert in np.argwhere(np.asarray(loads) > 0)]
    return there + there[::-1]


def state_on_host(
    loads: NDArray[np.int64], size: int, weighs: ExpertBytes
) -> tuple[StepBytes, ...]:
    """Steps of a device that keeps `size` experts' weights: loads [steps, layers, experts]."""
    steps = []
    for step in np.asarray(loads):
        touches = touched(step)
        hits = sum(lru(touches, size))
        steps.append(
            StepBytes(
                touches=len(touches),
                hits=hits,
                fetched=(len(touches) - hits) * weighs.weights,
                returned=len(touches) // 2 * weighs.gradient,
            )
        )
    return tuple(steps)


def state_travels(
    loads: NDArray[np.int64], size: int, weighs: ExpertBytes
) -> tuple[StepBytes, ...]:
    """The same where weights and state are fetched together, and the device updates what it holds.

    What leaves goes back whole, if it was trained here since it came: touched on a way back.
    """
    whole = weighs.weights + weighs.state
    held: OrderedDict[tuple[int, int], None] = OrderedDict()
    changed: set[tuple[int, int]] = set()
    steps = []
    for step in np.asarray(loads):
        touches = touched(step)
        hits = fetched = returned = 0
        for at, key in enumerate(touches):
            hit, gone = _touch(held, key, size)
            hits, fetched = hits + hit, fetched + (not hit) * whole
            returned += len(changed.intersection(gone)) * whole
            changed.difference_update(gone)
            if at >= len(touches) // 2:
                changed.add(key)
        steps.append(StepBytes(touches=len(touches), hits=hits, fetched=fetched, returned=returned))
    return tuple(steps)


def _touch(held: OrderedDict[Key, None], key: Key, size: int) -> tuple[bool, list[Key]]:
    """Use one expert: was it here, and who made room for it?"""
    hit = key in held
    held[key] = None
    held.move_to_end(key)
    return hit, [held.popitem(last=False)[0] for _ in range(len(held) - size)]

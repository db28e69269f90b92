"""What ZeRO leaves on a rank, and the largest model that then fits.

    stage   bytes a parameter on each of n ranks            7.5B, n=64
    0       2 + 2 + K                                       120 GB
    1       2 + 2 + K/n                                     31.4
    2       2 + (2 + K)/n                                   16.6
    3       (2 + 2 + K)/n                                   1.88

K is what the optimizer keeps: 12 with a float32 master and Adam's two float32 moments, 8 with
bfloat16 moments. Rajbhandari et al. 2019, ZeRO, arXiv:1910.02054, table 1.

`largest_model` inverts the formula; `largest_shape` searches real shapes with the counts that the
runs are held to, padding included.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from parallel_core.fields import PlanError
from parallel_core.ledger import resident_elements
from parallel_core.pieces import pieces
from parallel_core.plan import ModelShape, Plan
from parallel_core.walls.memory import RECIPES, Holds, Recipe

WEIGHT, GRADIENT = 2, 2
"""Bytes of a 16-bit weight, and of its gradient."""

K = 12
"""Bytes of optimizer state a parameter: float32 master 4, Adam's m 4 and v 4."""

MIXED = {12: RECIPES["bf16, Adam, fp32 master"], 8: RECIPES["bf16, Adam with bf16 moments"]}
"""The two recipes in 16 bits, by their K."""

NEVER_COUNTED = (
    "buffers of the messages, and what the communication library allocates for itself",
    "temporaries of the optimizer and of matrix products (workspaces)",
    "fragmentation of the allocator: memory that is free but in pieces too small",
    "the CUDA context and the programs themselves",
)
"""What no prediction of ours counts."""

NOT_COUNTED = (
    "activations: they grow with batch and sequence, and lie beside the state",
    "stage 2: whole gradients of the one or two layers in work, until they are scattered",
    "stage 3: whole weights of the layer in use and of those gathered ahead",
    *NEVER_COUNTED,
)
"""What the formula leaves out. A device of that capacity does not hold the model it names."""


def share(zero: int, n: int) -> dict[Holds, float]:
    """The part of each kind of state that a rank keeps: 1 whole, 1/n sharded.

    >>> share(2, 4)[Holds.PARAMS], share(2, 4)[Holds.GRADS]
    (1.0, 0.25)
    """
    if zero not in range(4):
        raise PlanError("zero", zero, "must be a stage from 0 to 3", min(max(zero, 0), 3))
    if n < 1:
        raise PlanError("n", n, "must be at least 1 rank", 1)
    from_stage = {Holds.PARAMS: 3, Holds.GRADS: 2, Holds.OPTIMIZER: 1}
    return {kind: 1 / n if zero >= first else 1.0 for kind, first in from_stage.items()}


def state_per_rank(params: float, *, zero: int, n: int, k: float = K) -> dict[Holds, float]:
    """Bytes of weights, gradients and optimizer state on each of n ranks.

    >>> round(sum(state_per_rank(7.5e9, zero=1, n=64).values()) / 1e9, 1)
    31.4
    """
    sizes = {Holds.PARAMS: WEIGHT, Holds.GRADS: GRADIENT, Holds.OPTIMIZER: k}
    return {kind: params * sizes[kind] * part for kind, part in share(zero, n).items()}


def bytes_per_param(zero: int, n: int, k: float = K) -> float:
    """Bytes of state a parameter costs each rank."""
    return sum(state_per_rank(1.0, zero=zero, n=n, k=k).values())


def largest_model(device_bytes: float, *, zero: int, n: int, k: float = K) -> float:
    """The most parameters whose state fills a device of each of n ranks, and nothing else.

    NOT_COUNTED lists the rest. PlanError for a device without bytes.

    >>> round(largest_model(80e9, zero=3, n=8, k=8) / 1e9, 2)
    53.33
    """
    _has_bytes(device_bytes)
    return device_bytes / bytes_per_param(zero, n, k)


@dataclass(frozen=True)
class Fit:
    """The largest model of a family that fits: its shape, parameters, bytes of state a rank."""

    shape: ModelShape
    params: int
    state: dict[Holds, int]

    @property
    def bytes(self) -> int:
        """All of its state on a rank."""
        return sum(self.state.values())


HEAD_DIM, VOCAB, LARGEST = 128, 32000, 256


def family(size: int) -> ModelShape:
    """The size-th of a family: `size` layers and heads, 128 wide each, as GPT-3 (96) is built.

    Llama dialect, so that no weight depends on the sequence.
    """
    return ModelShape(layers=size, heads=size, hidden=HEAD_DIM * size, vocab=VOCAB)


def state_of(shape: ModelShape, *, zero: int, n: int, k: int = K) -> dict[Holds, int]:
    """Bytes of state on each of n ranks, from the elements that a run would keep."""
    share(zero, n)  # refuses what makes no sense, in these names
    recipe = _recipe(k)
    plan = Plan(model=shape, zero=zero, dp=n, global_batch=n, dtype="bfloat16")
    kept = dict(zip((Holds.PARAMS, Holds.GRADS, Holds.OPTIMIZER), resident_elements(plan, 0),
                    strict=True))  # fmt: skip
    return {
        kind: elements * sum(c.bytes_per_param for c in recipe.components if c.holds == kind)
        for kind, elements in kept.items()
    }


def largest_shape(device_bytes: float, *, zero: int, n: int, k: int = K) -> Fit | None:
    """The largest of the family whose state fits on each rank; None if not even the smallest.

    Found by bisection: each of the family needs more than the one before.
    """
    _has_bytes(device_bytes)

    def total(size: int) -> int:
        return sum(state_of(family(size), zero=zero, n=n, k=k).values())

    size = bisect.bisect_right(range(1, LARGEST + 1), device_bytes, key=total)
    if size == 0:
        return None
    shape = family(size)
    params = sum(piece.numel for piece in pieces(Plan(model=shape)))
    return Fit(shape, params, state_of(shape, zero=zero, n=n, k=k))


def _recipe(k: int) -> Recipe:
    if k not in MIXED:
        rule = f"bytes a parameter is no optimizer of ours; choose {' or '.join(map(str, MIXED))}"
        raise PlanError("k", k, rule, K)
    return MIXED[k]


def _has_bytes(device_bytes: float) -> None:
    if not (device_bytes > 0 and math.isfinite(device_bytes)):
        rule = "must be a number of bytes above 0; an H100 has 80e9"
        raise PlanError("device_bytes", device_bytes, rule, 80e9)

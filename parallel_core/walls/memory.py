"""The memory wall: bytes of training state, activations and KV cache, and the devices they take.

Weights are the small part: a bf16 weight of 2 bytes drags 14 more behind it while it trains.
Gigabytes are 1e9 bytes, as device makers count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from parallel_core.activations.formula import classic
from parallel_core.plan import Recompute


class Holds(StrEnum):
    """What a piece of memory holds; figures colour by it (the keys of views.palette.TENSORS)."""

    PARAMS = "params"
    GRADS = "grads"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    KV_CACHE = "kv_cache"


@dataclass(frozen=True)
class Component:
    """One piece of the training state: its name, bytes per parameter, what it holds."""

    name: str
    bytes_per_param: int
    holds: Holds


@dataclass(frozen=True)
class Recipe:
    """A way to keep the training state, as named components."""

    components: tuple[Component, ...]
    source: str

    @property
    def bytes_per_param(self) -> int:
        """Bytes of training state each parameter takes."""
        return sum(part.bytes_per_param for part in self.components)


def _recipe(weights: int, grads: int, optimizer: dict[str, int], source: str) -> Recipe:
    parts = [
        Component("weights", weights, Holds.PARAMS),
        Component("gradients", grads, Holds.GRADS),
    ]
    parts += [Component(name, size, Holds.OPTIMIZER) for name, size in optimizer.items()]
    return Recipe(tuple(parts), source)


_ADAM = {"Adam m": 4, "Adam v": 4}
_ADAM_BF16 = {"fp32 master": 4, "Adam m (bf16)": 2, "Adam v (bf16)": 2}
_ZERO = "ZeRO, arXiv:1910.02054, section 3.1"

RECIPES: dict[str, Recipe] = {
    "bf16, Adam, fp32 master": _recipe(2, 2, {"fp32 master": 4, **_ADAM}, _ZERO),
    "bf16, Adam with bf16 moments": _recipe(2, 2, _ADAM_BF16, "Stanford CS336"),
    "bf16, fp32 gradients, Adam, fp32 master": _recipe(
        2, 4, {"fp32 master": 4, **_ADAM}, "Kimi K2, arXiv:2507.20534, section 2.4"
    ),
    "fp32, Adam": _recipe(4, 4, _ADAM, "Adam, arXiv:1412.6980"),
    "fp32, SGD with momentum": _recipe(4, 4, {"momentum": 4}, "Polyak 1964"),
    "fp32, SGD": _recipe(4, 4, {}, "Robbins and Monro 1951"),
}


def training_state(params: float, recipe: Recipe) -> dict[str, float]:
    """Bytes of each component while a model of `params` parameters trains: params x bytes.

    >>> sum(training_state(7.5e9, RECIPES["bf16, Adam, fp32 master"]).values()) / 1e9
    120.0
    """
    return {part.name: params * part.bytes_per_param for part in recipe.components}


class Keep(StrEnum):
    """Which activations wait for the backward pass (arXiv:2205.05198, table 2, one device)."""

    ALL = "everything"
    SELECTIVE = "all but attention scores"
    INPUTS = "only each layer's input"


_AGAIN = {
    Keep.ALL: Recompute.NONE,
    Keep.SELECTIVE: Recompute.SELECTIVE,
    Keep.INPUTS: Recompute.FULL,
}


def activation_bytes(batch: int, seq: int, hidden: int, heads: int, keep: Keep = Keep.ALL) -> int:
    """Bytes one transformer layer keeps for its backward pass.

        everything    s b h (34 + 5 a s / h)
        selective     34 s b h         (attention recomputed, or a flash kernel)
        inputs        2 s b h          (the whole layer recomputed)

    s tokens a sequence, b sequences, h width, a heads. Counts 16-bit activations, as many kv
    heads as heads, a GELU MLP of width 4h and dropout: exact for the gpt dialect, an estimate
    for others. Korthikanti et al. 2022, arXiv:2205.05198, equation 2 and table 2.
    """
    formula = classic().formula(recompute=_AGAIN[keep])
    return formula.bytes(s=seq, b=batch, h=hidden, a=heads)


def kv_cache_bytes(
    batch: int, length: int, kv_heads: int, head_dim: int, *, layers: int = 1, element: int = 2
) -> int:
    """Bytes of keys and values a batch keeps: layers x B x L x 2 x n_kv x d x element bytes.

    Shazeer 2019, arXiv:1911.02150 (why n_kv, not the query heads, sets it).

    >>> kv_cache_bytes(1, 1, 8, 128, layers=80)     # 70B with 8 kv heads: 320 KiB a token
    327680
    """
    return layers * batch * length * 2 * kv_heads * head_dim * element


def devices_needed(total_bytes: float, capacity: float) -> int:
    """The fewest devices of `capacity` bytes whose memories together hold `total_bytes`.

    A lower bound: it leaves no room for activations, buffers or fragmentation, and supposes that
    the bytes can be cut evenly, which is what the parallel methods are for.
    """
    if capacity <= 0:
        raise ValueError(f"capacity={capacity} must be above 0 bytes; an H100 has 80e9")
    return max(1, math.ceil(total_bytes / capacity))

"""What a reader asks of memory: a model, a layout, a device; and the answer, JSON-ready.

The fields are declared once, and the command line reads them here. A further axis is a further
field and a further term in `answer`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.fields import PlanError, choice, real, shown, validate, whole, words
from parallel_core.hardware.devices import DEVICES, Device
from parallel_core.plan import DType, ModelShape
from parallel_core.walls.models import PRESETS
from parallel_core.walls.sharding import (
    LARGEST,
    NOT_COUNTED,
    Fit,
    largest_model,
    largest_shape,
    state_per_rank,
)

MOMENTS = {"float32": 12, "bfloat16": 8}
"""K by the type of Adam's moments, a float32 master of 4 bytes included."""


@dataclass(frozen=True, kw_only=True)
class MemoryRequest:
    """Ψ parameters (or a model by name) trained in bfloat16 with AdamW on `dp` ranks."""

    params: float | None = real(None, 1.0, 1e16, "parameters, as in 7.5e9")
    model: str | None = words(None, f"a model by name instead: {', '.join(PRESETS)}")
    zero: int | None = whole(None, 0, 3, "ZeRO stage; default: all of them, side by side")
    dp: int = whole(8, 1, 1 << 20, "data-parallel ranks; of a plan 1 unless given")
    moments: str = choice("float32", MOMENTS, "type of AdamW's moments: K = 12 or 8 bytes")
    device: str = words("A100-80", "a device by name, as in h100, or its bytes, as in 80e9")

    def __post_init__(self) -> None:
        validate(self)
        if self.params is not None and self.model is not None:
            raise PlanError("params", f"{self.params:g}", "says what model says already", "none")
        if self.model is not None:
            _named("model", self.model, PRESETS)
        if not 0 < self.device_memory < math.inf:
            raise PlanError("device", shown(self.device), "must hold more than 0 bytes", "80e9")

    @property
    def size(self) -> float:
        """Parameters: those given, or counted from the model's shape; 7.5e9 by default."""
        if self.model is not None:
            return float(PRESETS[_named("model", self.model, PRESETS)].params)
        return 7.5e9 if self.params is None else self.params

    @property
    def known_device(self) -> Device | None:
        """The device, unless only its bytes were given."""
        try:
            float(self.device)
        except ValueError:
            return DEVICES[_named("device", self.device, DEVICES)]
        return None

    @property
    def device_memory(self) -> float:
        """Bytes of one device."""
        found = self.known_device
        return float(self.device) if found is None else found.memory

    @property
    def about_device(self) -> dict[str, Any]:
        """Its name, if it has one, and its bytes."""
        found = self.known_device
        return {"name": found.name if found else None, "bytes": self.device_memory}

    @property
    def plan_fields(self) -> dict[str, Any]:
        """What a model by name says of a plan: its shape, its context, bfloat16; else nothing.

        PlanError for a model whose layers are not a plan's.
        """
        if self.model is None:
            return {}
        preset = PRESETS[_named("model", self.model, PRESETS)]
        if not isinstance(preset.shape, ModelShape):
            rule = "has no layers that a plan could cut"
            raise PlanError("model", preset.name, rule, "GPT-3 175B")
        return {**asdict(preset.shape), "seq": preset.context, "dtype": DType.BFLOAT16}

    def answer(self) -> dict[str, Any]:
        """Bytes of state a rank by stage, beside the capacity, and the largest model that fits."""
        stages = range(4) if self.zero is None else (self.zero,)
        return {
            "params": self.size,
            "dp": self.dp,
            "k": MOMENTS[self.moments],
            "device": self.about_device,
            "stages": [self._stage(zero) for zero in stages],
            "not_counted": list(NOT_COUNTED),
        }

    def _stage(self, zero: int) -> dict[str, Any]:
        k, room = MOMENTS[self.moments], self.device_memory
        state = state_per_rank(self.size, zero=zero, n=self.dp, k=k)
        total = sum(state.values())
        searched = largest_shape(room, zero=zero, n=min(self.dp, MOST_RANKS), k=k)
        return {
            "zero": zero,
            **{f"{kind.value}_bytes": size for kind, size in state.items()},
            "total_bytes": total,
            "fits": total <= room,
            "share_of_device": total / room,
            "largest_params": largest_model(room, zero=zero, n=self.dp, k=k),
            "largest_shape": _shape(searched),
        }


MOST_RANKS = 4096
"""Ranks that the search for a shape supposes at most, as many as a plan may have."""


def _shape(found: Fit | None) -> dict[str, Any] | None:
    if found is None:
        return None
    shape = found.shape
    return {
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "params": found.params,
        "bytes": found.bytes,
        "last_of_family": shape.layers == LARGEST,
    }


def _named(field: str, typed: str, known: Iterable[str]) -> str:
    """The first name that begins with what was typed, whatever the case; PlanError if none does."""
    names = list(known)
    begin = typed.strip().casefold()
    found = [name for name in names if name.casefold().startswith(begin)] if begin else []
    if not found:
        raise PlanError(field, shown(typed), f"is not one of {', '.join(names)}", names[1])
    return found[0]

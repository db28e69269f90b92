"""What a run leaves on disk when asked: weights, first gradients and the first batch.

All in safetensors under Hugging Face's names and shapes (hf.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from parallel_core import hf
from parallel_core.plan import Plan
from parallel_core.text import Sampler


def save_outputs(
    plan: Plan,
    weights: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    save: Mapping[str, str | None],
) -> None:
    """Write what `save` asks for: "weights" (a directory), "grads" and "batch" (files)."""
    if where := save.get("weights"):
        hf.save_weights(Path(where), {n: w.cpu() for n, w in weights.items()}, plan)
    if where := save.get("grads"):
        hf.save_grads(Path(where), {n: g.cpu() for n, g in grads.items()}, plan)
    if where := save.get("batch"):
        first = Sampler(plan).batch(0)
        hf.save_batch(Path(where), first.ids, first.labels)

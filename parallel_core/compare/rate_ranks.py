"""What a device of this machine computes at most: the target of one rank process."""

from __future__ import annotations

from typing import Any

import torch

from parallel_core import roofline_live
from parallel_core.rank import Rank

SECONDS = 1.0
"""About how long the roofline looks for the flat roof."""


def measure(rank: Rank, *, dtype: str) -> dict[str, Any]:
    """The GPU's name, or without one the measured peak of one thread in FLOP/s."""
    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(0), "peak": None}
    found = roofline_live.measure(rank, dtype=dtype, seconds=SECONDS, widths=())
    return {"device": "one core", "peak": found["peak"]}

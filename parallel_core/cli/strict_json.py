"""JSON that every reader accepts: a loss that is NaN or infinite becomes null."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(value: object) -> str:
    """`value` as one line of JSON; Python alone would write NaN, which is no JSON."""
    return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: object) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value

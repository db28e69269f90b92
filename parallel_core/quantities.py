"""Times and byte counts in words, the same everywhere: pages, tables, terminal, player."""

from __future__ import annotations

import math

_TIMES = ((1_000, 1, "ns"), (1_000_000, 1_000, "µs"), (1_000_000_000, 1_000_000, "ms"))
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def time_text(ns: float, scale: float | None = None) -> str:
    """Nanoseconds as "3.10 ms"; the unit fits `scale` (default: the time itself)."""
    size = abs(ns if scale is None else scale)
    per, unit = next(((per, unit) for below, per, unit in _TIMES if size < below), (10**9, "s"))
    return f"{_three(ns / per)} {unit}"


def bytes_text(count: float) -> str:
    """Bytes as "12.4 MiB"."""
    power = 0
    while abs(count) >= 1024 and power < len(_BYTES) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.0f} B" if power == 0 else f"{_three(count)} {_BYTES[power]}"


def _three(value: float) -> str:
    size = abs(value)
    digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2
    # Rounded half up, as the player's JavaScript does, so that both say the same.
    return f"{math.floor(value * 10**digits + 0.5) / 10**digits:.{digits}f}"

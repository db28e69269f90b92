"""How fast the simulator is on large pipelines, and how much memory it takes.

Each size runs in a process of its own, so that its peak memory is its own too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.measurement import Measurement, Report
from parallel_core.fields import validate, whole

ONCE = "parallel_core.bench.simulate_once"
PARTS = ("order", "lower", "simulate")
GIB = 2.0**30


@dataclass(frozen=True)
class Size:
    """An interleaved pipeline, and the seconds and GiB that it should stay under."""

    p: int
    m: int
    v: int
    seconds: float
    gib: float

    def __str__(self) -> str:
        return f"p={self.p} m={self.m} v={self.v}"


SIZES = (Size(16, 128, 4, seconds=1.0, gib=4.0), Size(64, 1024, 4, seconds=30.0, gib=4.0))


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """How often each size is simulated."""

    repeats: int = whole(3, 1, 1000, "times each size is simulated")

    def __post_init__(self) -> None:
        validate(self)


def measure(chosen: Repeats, say: Say, sizes: Sequence[Size] = SIZES) -> Report:
    """Time and peak memory of each size, part by part."""
    rows: dict[str, Measurement] = {}
    told: list[dict[str, Any]] = []
    for size in sizes:
        found = []
        for turn in range(chosen.repeats):
            say(f"{size}: {turn + 1} of {chosen.repeats}")
            found.append(once(size))
        told.append({"size": str(size), "instructions": found[0]["instructions"]})
        for part in PARTS:
            rows[f"{size}: {part}"] = Measurement.of([one[part] for one in found], "s")
        whole = [sum(one[part] for part in PARTS) for one in found]
        rows[f"{size}: all three"] = Measurement.of(whole, "s")
        peak = [one["peak_bytes"] / GIB for one in found]
        rows[f"{size}: peak memory"] = Measurement.of(peak, "GiB")
    notes = (
        "interleaved 1F1B under unit costs: its order, its messages (lower), its times (simulate)",
        "; ".join(f"{one['size']}: {one['instructions']:,} instructions" for one in told),
    )
    settings = {"repeats": chosen.repeats, "sizes": told}
    title = "the simulator on large pipelines"
    return Report("simulate", title, rows, settings, notes, tuple(_doubts(rows, sizes)))


def once(size: Size) -> dict[str, Any]:
    """One simulation in a new process: seconds of each part, peak bytes, instructions."""
    words = [sys.executable, "-m", ONCE, *map(str, (size.p, size.m, size.v))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"simulating {size} failed: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _doubts(rows: Mapping[str, Measurement], sizes: Sequence[Size]) -> Iterator[str]:
    for size in sizes:
        for what, unit, limit in (
            ("all three", "s", size.seconds),
            ("peak memory", "GiB", size.gib),
        ):
            median = rows[f"{size}: {what}"].median
            if median > limit:
                yield f"{size}: {what} {median:.2f} {unit}, more than {limit:g} {unit}"

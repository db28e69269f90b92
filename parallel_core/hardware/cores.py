"""The cores that are ours: a container or a job often has fewer than the machine has."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> float:
    """The cores this process may really use: its affinity, and the container's share of time.

    `cgroups` is where the system says so: version 2 in cpu.max, as "200000 100000" (microseconds,
    of how many) or "max 100000", version 1 in two files, the first -1 where there is no limit.
    """
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 0.0
    cores = cores or float(os.cpu_count() or 1)
    old = [cgroups / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    for files in ([cgroups / "cpu.max"], old):
        try:
            most, period = " ".join(file.read_text() for file in files).split()
            limit = int(most) / int(period) if most not in ("max", "-1") else cores
        except (OSError, ValueError, ZeroDivisionError):
            continue
        return min(cores, limit)
    return cores

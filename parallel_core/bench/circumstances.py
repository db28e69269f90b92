"""Under which circumstances a figure was measured: without them it means nothing elsewhere."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from parallel_core import __version__, provenance


def circumstances() -> dict[str, Any]:
    """Machine, versions, date and the load average now, JSON-ready. Loads no torch."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": {
            "shardlab": __version__,
            "commit": provenance.commit(),
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
        },
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
    }


def _processor() -> str:
    """The processor's name as the system tells it; its architecture where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

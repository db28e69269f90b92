"""One simulation of an interleaved pipeline, timed: `python -m ... P M V` prints a JSON object."""

from __future__ import annotations

import json
import resource
import sys
import time

from parallel_core.cost import UnitCost
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.schedule import Job
from parallel_core.simulate import simulate

# ru_maxrss counts KiB, on macOS bytes
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def once(p: int, m: int, v: int) -> dict[str, float]:
    """Seconds of each part, the process's peak resident bytes, and how many instructions."""
    begun = time.perf_counter()
    order = SCHEDULES["interleaved"].of(Job(p=p, m=m, v=v))
    ordered = time.perf_counter()
    program = lower(order)
    lowered = time.perf_counter()
    trace = simulate(program, UnitCost())
    simulated = time.perf_counter()
    return {
        "order": ordered - begun,
        "lower": lowered - ordered,
        "simulate": simulated - lowered,
        "instructions": len(trace.spans),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT,
    }


if __name__ == "__main__":
    print(json.dumps(once(*map(int, sys.argv[1:4]))))

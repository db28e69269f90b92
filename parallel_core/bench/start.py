"""How long a reader waits: from the request to the first all-reduce, and to the first step.

    cold    a new pool: its supervisor starts and imports torch, then the ranks fork
    warm    the pool has run before: the ranks fork, meet and begin

Times are taken on the machine-wide clock, from the call that asks to the last rank's word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.measurement import Measurement, Report
from parallel_core.fields import validate, whole
from parallel_core.launch import Pool, Run
from parallel_core.machine import most_ranks
from parallel_core.plan import Plan
from parallel_core.request import Request

ALL_REDUCE = "parallel_core.bench.start_ranks:first_all_reduce"


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """How often each start is repeated."""

    cold: int = whole(5, 1, 1000, "repeats with a new pool")
    warm: int = whole(15, 1, 1000, "repeats with a warm pool")

    def __post_init__(self) -> None:
        validate(self)


def measure(repeats: Repeats, say: Say, ranks: Iterable[int] = (2, 4)) -> Report:
    """Both latencies, cold and warm, at each number of ranks that this machine bears."""
    rows: dict[str, Measurement] = {}
    sizes = [n for n in ranks if n <= most_ranks()]
    for n in sizes:
        for what, once in WHAT.items():
            cold = []
            for i in range(repeats.cold):
                say(f"{what}, {n} ranks: cold start {i + 1} of {repeats.cold}")
                begin = time.perf_counter_ns()
                with Pool() as pool:
                    cold.append(once(pool, n, begin))
            rows[f"{what}, {n} ranks, cold"] = Measurement.of(cold, "ms")
    with Pool() as pool:
        for n in sizes:
            for what, once in WHAT.items():
                once(pool, n, 0)
                say(f"{what}, {n} ranks: {repeats.warm} warm starts")
                warm = [once(pool, n, time.perf_counter_ns()) for _ in range(repeats.warm)]
                rows[f"{what}, {n} ranks, warm"] = Measurement.of(warm, "ms")
    settings = {
        "cold_repeats": repeats.cold,
        "warm_repeats": repeats.warm,
        "plan": plan_of(2).flat() | {"dp": list(sizes)},
    }
    notes = ("from the request to the word of the last rank; cold includes importing torch",)
    return Report("start", "start of a run", rows, settings, notes)


def plan_of(n: int) -> Plan:
    """The run whose first step is awaited: the default model on `n` ranks."""
    return Plan.of(dp=n, global_batch=4 * n)


def _first_all_reduce(pool: Pool, n: int, begin: int) -> float:
    with pool.start(ALL_REDUCE, n, {}) as run:
        return _last(run, "summed", lambda event: int(event["at"]), begin)


def _first_step(pool: Pool, n: int, begin: int) -> float:
    request = Request(plan=plan_of(n), steps=1, parity=False)
    with pool.start(*request.order) as run:
        # a note's fifth number is the end of its instruction, on the clock that all ranks share
        return _last(run, "notes", lambda e: max(int(note[4]) for note in e["notes"]), begin)


def _last(run: Run, name: str, at: Callable[[dict[str, Any]], int], begin: int) -> float:
    """Milliseconds from `begin` to the latest `at` among the events called `name`."""
    ends = [at(event) for event in run.events() if event["event"] == name]
    run.wait()
    return (max(ends) - begin) / 1e6


WHAT: dict[str, Callable[[Pool, int, int], float]] = {
    "first all-reduce": _first_all_reduce,
    "first step": _first_step,
}
"""What a start is over with -> how it is timed: (pool, ranks, begin in ns) -> milliseconds."""

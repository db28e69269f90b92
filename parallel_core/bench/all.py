"""Every bench in turn, gathered into one report; one that fails does not lose the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.circumstances import circumstances

Reported = Callable[[str, Mapping[str, Any], Say], dict[str, Any]]
"""Runs the bench of that name with those options, and gives its report as JSON."""

_TINY = {"layers": 2, "hidden": 64, "heads": 2, "seq": 64, "global_batch": 8}
_TURNS = {"rounds": 2, "warmup": 3}

QUICK: dict[str, dict[str, Any]] = {
    "dp": {**_TINY, **_TURNS},
    "zero": {**_TINY, **_TURNS, "memory_rounds": 1},
    "tp": {**_TINY, **_TURNS, "memory_rounds": 1},
    "cp": {**_TINY, **_TURNS, "memory_rounds": 1, "step_rounds": 1},
    "ep": {**_TURNS, "seq": 64, "top_k": 1, "skew": 0},
    "start": {"cold": 1, "warm": 2},
    "recorder": {**_TINY, **_TURNS, "real_rounds": 2},
    "collectives": {"rounds": 1, "turn_ms": 2, "ranks": "2"},
    "pipeline": {**_TINY, **_TURNS, "schedule": "1f1b"},
    "bubble": {**_TINY, "steps": 2, "warmup": 1, "schedule": "1f1b"},
    "simulate": {"repeats": 1},
    "player": {"repeats": 1, "frames": 20},
}
"""Options under which a bench is over in seconds: it shows that all of them work, not how fast."""


def gather(
    names: Iterable[str],
    reported: Reported,
    say: Say,
    *,
    quick: bool = False,
    done: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """The benches of these names, one after another: reports by name, and the circumstances.

    A bench that raises has {"bench", "failed"} in the place of its report. `done` is given the
    whole after each, so that an interrupted gathering leaves what it had.
    """
    every = list(names)
    whole: dict[str, Any] = {
        "title": "every bench of the lab",
        "quick": quick,
        **circumstances(),
        "benches": {},
    }
    for number, name in enumerate(every, start=1):

        def said(text: str, before: str = f"{number} of {len(every)}, {name}") -> None:
            say(f"{before}: {text}")

        said("starting")
        begin = time.perf_counter()
        try:
            report = reported(name, QUICK.get(name, {}) if quick else {}, said)
        except Exception as error:  # whatever it is: the other benches are to be heard
            words = " ".join(str(error).split())[:500] or "no message"
            report = {"bench": name, "failed": f"{type(error).__name__}: {words}"}
        whole["benches"][name] = {**report, "seconds": round(time.perf_counter() - begin, 1)}
        done(whole)
    whole["load_average_after"] = circumstances()["load_average"]
    return whole


def failed(report: Mapping[str, Any]) -> list[str]:
    """The names of the benches that failed."""
    return [name for name, each in report["benches"].items() if "failed" in each]

"""All-reduce as we do it beside gloo's own: ring and halving-doubling in messages, and direct.

    ring, halving_doubling   our programs, message by message over gloo's sends and receives
    shared memory            every rank reads all others where they lie (collectives/shared.py)
    gloo                     torch.distributed's all_reduce

All four live in the same rank processes and take turns, size by size, so that drift hits all
alike. Before the clock starts each must get the same sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.interleave import Block, a_step, merged
from parallel_core.bench.measurement import Measurement, Report, ratio_of
from parallel_core.fields import PlanError, nearest_where, shown, validate, whole
from parallel_core.launch import Pool
from parallel_core.machine import most_ranks
from parallel_core.quantities import bytes_text

TARGET = "parallel_core.bench.collectives_ranks"

GLOO = "gloo"
OURS = ("ring", "halving_doubling", "shared memory")
SIDES = (*OURS, GLOO)

SIZES = (*(1 << power for power in range(10, 25, 2)), 1 << 25, 1 << 26)
"""1 KiB to 64 MiB."""

LARGE = 1 << 24
RING_LIMIT = 1.3
"""From 16 MiB on, our ring should take no longer than so many times what gloo takes."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """How often the four take turns, and how long a turn is."""

    rounds: int = whole(8, 1, 1000, "rounds of eight turns, two a side")
    turn_ms: int = whole(10, 1, 10_000, "a turn repeats its call for about so long, milliseconds")

    def __post_init__(self) -> None:
        validate(self)


def ranks_of(text: str) -> tuple[int, ...]:
    """The numbers in "2,4"; PlanError for what is no number of ranks that this machine bears."""
    rule = f"must be numbers from 2 to {most_ranks()} with commas between"
    found = []
    for part in str(text).split(","):
        if not (part.strip().isascii() and part.strip().isdigit()):
            raise PlanError("ranks", shown(text), rule, "2,4")
        found.append(int(part))
    if odd := [n for n in found if not 2 <= n <= most_ranks()]:
        raise PlanError("ranks", shown(text), rule, nearest_where(odd[0], [2, most_ranks()]))
    return tuple(dict.fromkeys(found))


def measure(
    chosen: Contest, say: Say, ranks: Sequence[int] = (2, 4), sizes: Sequence[int] = SIZES
) -> Report:
    """Race the four at each number of ranks and each size, largest last.

    Raises RunError if a rank fails or a contender gets another sum than gloo.
    """
    sizes = sorted(sizes)
    rows: dict[str, Measurement] = {}
    args = {"sizes": sizes, "rounds": chosen.rounds, "turn_ms": chosen.turn_ms}
    told: list[dict[str, Any]] = []
    with Pool(preload=(TARGET,)) as pool:
        for n in ranks:
            say(f"{n} ranks: starting")
            with pool.start(f"{TARGET}:contend", n, args, silence_s=600) as run:
                for event in run.events():
                    if event["event"] == "size" and event["rank"] == 0:
                        say(f"{n} ranks: {bytes_text(event['bytes'])}")
                results = run.wait()
            for at, size in enumerate(sizes):
                blocks = [result[at] for result in results]
                times = _times(blocks)
                rows |= _rows(f"{n} ranks, {bytes_text(size)}", times)
                told.append({"ranks": n, "bytes": size, "seconds": _medians(times)})
    settings = {**args, "ranks": list(ranks), "backend": "gloo", "dtype": "float32", "times": told}
    notes = (
        "x is gloo's time over ours: above 1 ours is faster",
        "a round is every side and then every side in reverse; its ratio pairs the two",
        "ours runs with its recorder on; the time of a call is that of the slowest rank",
    )
    return Report("collectives", "all-reduce", rows, settings, notes, _doubts(rows, chosen))


def _times(by_rank: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[float]]:
    """Seconds a call of each side, a number a round."""
    blocks = merged([[Block(**block) for block in blocks] for blocks in by_rank])
    return {side: a_step(blocks, side) for side in SIDES}


def _medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {side: Measurement.of(each, "s").median for side, each in times.items()}


def _rows(name: str, times: Mapping[str, Sequence[float]]) -> dict[str, Measurement]:
    rows = {f"{name}: {side} / gloo": ratio_of(times[side], times[GLOO]) for side in OURS}
    rows[f"{name}: gloo"] = Measurement.of([1e3 * s for s in times[GLOO]], "ms")
    return rows


def _doubts(rows: Mapping[str, Measurement], chosen: Contest) -> tuple[str, ...]:
    doubts = []
    direct = [name for name, row in rows.items() if "shared" in name and row.low <= 1]
    if direct:
        doubts.append(f"not surely faster than gloo: {'; '.join(direct)}")
    large = {f", {bytes_text(size)}:" for size in SIZES if size >= LARGE}
    slow = [
        name
        for name, row in rows.items()
        if ": ring" in name and any(size in name for size in large) and row.low < 1 / RING_LIMIT
    ]
    if slow:
        doubts.append(f"not surely within {RING_LIMIT} times gloo's time: {'; '.join(slow)}")
    if chosen.rounds < 6:
        doubts.append(f"{chosen.rounds} rounds cannot bear a 95 % interval: the range is given")
    return tuple(doubts)

"""Who contends in `shardlab bench cp`, and what becomes of their turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from parallel_core.bench.interleave import Block, a_step
from parallel_core.bench.measurement import Measurement, ratio_of
from parallel_core.bench.zero import fullest

ZIGZAG, RING, ONE = "zigzag", "ring", "one process"
ROTATIONS = ("alltoall", "allgather")
"""How torch's ring moves keys and values: hop by hop, or gathered at once."""

TORCH: Mapping[str, tuple[str, ...]] = {
    ours: tuple(f"torch {ours}, {rotation}" for rotation in ROTATIONS) for ours in (ZIGZAG, RING)
}
"""Our side -> the sides of torch that compute the same tiles on the same ranks."""

SIDES = (ZIGZAG, RING, *TORCH[ZIGZAG], *TORCH[RING], ONE)
"""All contenders, by the names that their rows have."""

PAIRS = (
    (ZIGZAG, RING),
    *((ours, peer) for ours, peers in TORCH.items() for peer in peers),
    (ZIGZAG, ONE),
    (RING, ONE),
)
"""(ours, theirs) for which ratios are given."""

READINGS = ("peaks", "keeps")
"""What is read of memory: the most that a turn holds, and what it keeps for its backward."""

MIB = 2.0**20


def order(sides: Sequence[str], number: int) -> tuple[str, ...]:
    """The turns of a round: every side, then every side in reverse; each round begins elsewhere.

    >>> [" ".join(order("abc", number)) for number in range(2)]
    ['a b c c b a', 'b c a a c b']
    """
    first = number % len(sides)
    once = (*sides[first:], *sides[:first])
    return (*once, *reversed(once))


def slowest(by_rank: Sequence[Sequence[Mapping[str, Any]]]) -> list[Block]:
    """The turns of several ranks as one: on either clock, the rank that needed longest."""
    turns = zip(*([Block(**block) for block in blocks] for blocks in by_rank), strict=True)
    return [
        replace(b[0], seconds=max(x.seconds for x in b), cpu=max(x.cpu for x in b)) for b in turns
    ]


def rows_of(results: Sequence[Mapping[str, Any]]) -> dict[str, Measurement]:
    """The ranks' turns at one layer as rows; memory is that of the fullest rank."""
    blocks = slowest([result["blocks"] for result in results])
    wall = {side: a_step(blocks, side) for side in SIDES}
    own = {side: a_step(blocks, side, "cpu") for side in SIDES}
    rows = {}
    for ours, peer in PAIRS:
        rows[f"{ours} / {peer}"] = ratio_of(wall[ours], wall[peer])
        rows[f"{ours} / {peer}: own device"] = ratio_of(own[ours], own[peer])
    for side in SIDES:
        rows[f"{side}: layer"] = Measurement.of([1e3 * s for s in wall[side]], "ms")
        rows[f"{side}: layer, own device"] = Measurement.of([1e3 * s for s in own[side]], "ms")
    return rows | dict(_memory(results))


def _memory(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Measurement]]:
    """Rows of what a round showed; one in which a side's reading was lost is left out for it."""
    peaks, keeps = (_fullest(results, what) for what in READINGS)
    ones = [(f"{side}: peak", peaks[side]) for side in SIDES]
    ones += [(f"{side}: kept", keeps[side]) for side in (ZIGZAG, RING, ONE)]
    twos = [(f"{ours} / {peer}: peak bytes", peaks[peer], peaks[ours]) for ours, peer in PAIRS]
    twos += [(f"{side} / {ONE}: kept bytes", keeps[ONE], keeps[side]) for side in (ZIGZAG, RING)]
    for name, theirs, ours in twos:
        both = [(t, o) for t, o in zip(theirs, ours, strict=True) if min(t, o) > 0]
        if both:
            yield name, ratio_of([t for t, _ in both], [o for _, o in both])
    for name, each in ones:
        if seen := [size / MIB for size in each if size > 0]:
            yield name, Measurement.of(seen, "MiB")


def lost(results: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """How many readings of memory showed nothing, of how many: one a side, round and kind."""
    every = [
        size for what in READINGS for each in _fullest(results, what).values() for size in each
    ]
    return sum(size <= 0 for size in every), len(every)


def _fullest(results: Sequence[Mapping[str, Any]], what: str) -> dict[str, list[float]]:
    return {side: fullest([result[what][side] for result in results]) for side in SIDES}


def step_rows(tokens: int, results: Sequence[Mapping[str, Any]]) -> dict[str, Measurement]:
    """The ranks' turns at whole training steps of `tokens` tokens as rows."""
    blocks = slowest([result["step_blocks"] for result in results])
    ours, theirs = (a_step(blocks, side) for side in (ZIGZAG, RING))
    own, their_own = (a_step(blocks, side, "cpu") for side in (ZIGZAG, RING))
    return {
        "training step, zigzag / ring": ratio_of(ours, theirs),
        "training step, zigzag / ring: own device": ratio_of(own, their_own),
        "training step, zigzag": Measurement.of([tokens / s for s in ours], "tokens/s"),
        "training step, ring": Measurement.of([tokens / s for s in theirs], "tokens/s"),
    }

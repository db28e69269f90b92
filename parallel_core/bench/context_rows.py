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
    peaks, keeps = (
        {side: fullest([result[what][side] for result in results]) for side in SIDES}
        for what in ("peaks", "keeps")
    )
    if any(min(most) <= 0 for each in (peaks, keeps) for most in each.values()):
        return
    for ours, peer in PAIRS:
        yield f"{ours} / {peer}: peak bytes", ratio_of(peaks[peer], peaks[ours])
    for side in SIDES:
        yield f"{side}: peak", Measurement.of([p / MIB for p in peaks[side]], "MiB")
    for side in (ZIGZAG, RING, ONE):
        yield f"{side}: kept", Measurement.of([k / MIB for k in keeps[side]], "MiB")
    for side in (ZIGZAG, RING):
        yield f"{side} / {ONE}: kept bytes", ratio_of(keeps[ONE], keeps[side])


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

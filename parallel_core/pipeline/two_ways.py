"""Two streams through the ranks at once, in opposite ways: what DualPipe and DualPipeV share.

Nouns. A rank lies `at` steps from the end of the line where its *near* stream enters (0 is the end
itself) and `short` steps from the middle, behind which everything is a mirror image. The *far*
stream reaches it later. n microbatches go each way. A rank runs, in this order,

    2 short        times   F near                        fill: until the far stream is here
    at + 1         times   F near, F far
    short          times   I far, W, F far               the far stream turned in the middle
    n-2half+at+1   times   F near, B far, F far, B near  steady: each F B a pair that overlaps
    short          times   B far, F far, B near          the near stream has entered
    at + 1         times   B far, B near                 drain; the second half of them are I
    short          times   W, I near
    at + 1         times   W

W takes the oldest I. In a pair one half computes while the messages of the other are on their way.
DeepSeek-AI 2024, arXiv:2412.19437; github.com/deepseek-ai/DualPipe.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from parallel_core.pipeline.order import Task
from parallel_core.program import Op

NEAR, FAR = 0, 1


@dataclass(frozen=True, kw_only=True)
class Way:
    """A stream on one rank: the stage it passes there, and its microbatches in their order."""

    stage: int
    mbs: range


def two_ways(at: int, half: int, *, near: Way, far: Way) -> tuple[Task, ...]:
    """The tasks of the rank `at` steps from its end of a line whose middle is `half` ranks away.

    Both ways have the same number of microbatches, at least 2 half.
    """
    ways = (near, far)
    forward, backward = [iter(way.mbs) for way in ways], [iter(way.mbs) for way in ways]
    weights: deque[Task] = deque()
    did: list[Task] = []
    for op, way in _course(at, half - 1 - at, steady=len(near.mbs) - 2 * half + at + 1):
        if op is Op.W:
            did.append(weights.popleft())
            continue
        mb = next((forward if op is Op.F else backward)[way])
        did.append(Task(op, mb, ways[way].stage))
        if op is Op.I:
            weights.append(Task(Op.W, mb, ways[way].stage))
    return tuple(did)


def _course(at: int, short: int, *, steady: int) -> list[tuple[Op, int]]:
    """The table above as (op, way); the way of a W is its I's, whatever stands here."""
    enter, meet = (Op.F, NEAR), (Op.F, FAR)
    w = (Op.W, NEAR)
    whole = [(Op.B, FAR), (Op.B, NEAR)] * (at + 1)
    drain = whole[: at + 1] + [(Op.I, way) for _, way in whole[at + 1 :]]
    return [
        *[enter] * (2 * short),
        *[enter, meet] * (at + 1),
        *[(Op.I, FAR), w, meet] * short,
        *[enter, (Op.B, FAR), meet, (Op.B, NEAR)] * steady,
        *[(Op.B, FAR), meet, (Op.B, NEAR)] * short,
        *drain,
        *[w, (Op.I, NEAR)] * short,
        *[w] * (at + 1),
    ]

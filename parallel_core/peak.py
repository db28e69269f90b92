"""The most memory that a step can need: the highest point of its outline, over every timing.

A program fixes what waits for what, not which lane is ahead. So the peak is looked for over all
places at which the lanes of a rank may stand at one moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from parallel_core.effects import Effect, Routed, effects
from parallel_core.ledger import predicted_memory
from parallel_core.outline import FOLLOWED, KINDS
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Program


def predicted_peak(
    plan: Plan, program: Program, *, routed: Routed | None = None, steps: Sequence[int] = (1,)
) -> dict[str, list[int]]:
    """The most bytes of each kind, and of all together, that a rank can hold at any moment.

    Over every timing in which the lanes of a rank may run, not one trace: a run stays at or below.
    Experts get even loads, or what a run's routers gave them in its `steps`, the first of which
    begins without an optimizer's moments.
    """
    peak: dict[str, list[int]] = {kind: [] for kind in (*FOLLOWED, "total")}
    resident = [predicted_memory(plan, stepped=stepped) for stepped in (False, True)]
    known: dict[int, dict[str, int]] = {}
    for rank, instrs in enumerate(program.ranks):
        before, after = ({kind: each[kind][rank] for kind in each} for each in resident)
        if not routed and id(instrs) not in known:  # ranks that run the same share one tuple
            known[id(instrs)] = _highest(instrs, effects(plan))
        levels = [_level(after, {})]
        for step in steps:
            more = _highest(instrs, effects(plan, routed(rank, step))) if routed else None
            levels.append(_level(after if step else before, more or known[id(instrs)]))
        for kind, sizes in peak.items():
            sizes.append(max(level[kind] for level in levels))
    return peak


def _level(resident: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Bytes by kind with so many more than there are between steps."""
    level = {kind: resident.get(kind, 0) + more.get(kind, 0) for kind in FOLLOWED}
    return level | {"total": sum(resident.values()) + more.get("total", 0)}


def _highest(instrs: Sequence[Instr], effect: Callable[[Instr], Effect]) -> dict[str, int]:
    """How many more there are at most of each kind, and of all on the device together."""
    each = {kind: _most(instrs, effect, (kind,)) for kind in FOLLOWED}
    return each | {"total": _most(instrs, effect, KINDS)}


def _most(instrs: Sequence[Instr], effect: Callable[[Instr], Effect], kinds: Sequence[str]) -> int:
    """The most that the values of all lanes hold together, whichever is ahead.

    Beside the compute lane those of messages and of the host make or free memory. Neither waits for
    the other but through the compute lane, so for each place of that each adds its own highest.
    """
    compute = [i for i, x in enumerate(instrs) if x.lane == Lane.COMPUTE]
    total = _levels([effect(instrs[i]) for i in compute], kinds)
    for lane in SIDES:
        beside = [i for i, x in enumerate(instrs) if x.lane == lane]
        highest = _beside(instrs, compute, beside, [effect(instrs[i]) for i in beside], kinds)
        total = [level + more for level, more in zip(total, highest, strict=True)]
    return max(total)


SIDES = (Lane.COMM, Lane.HOST)
"""Lanes beside the compute lane whose instructions make or free memory."""


def _beside(
    instrs: Sequence[Instr],
    ours: Sequence[int],
    theirs: Sequence[int],
    effects_there: Sequence[Effect],
    kinds: Sequence[str],
) -> Iterator[int]:
    """The highest level that another lane can be at, for each point of the compute lane.

    A lane with i instructions behind it stands at point 2i, or at 2i + 1 inside the next one. It
    may stand there once the other lane has written all that it has read: a window that only moves
    forward, whose maximum a queue follows.
    """
    levels = _levels(effects_there, kinds)
    needs, theirs_need = _needs(instrs, ours, theirs), _needs(instrs, theirs, ours)
    queue: deque[int] = deque()  # points of the other lane, levels falling
    end = 0
    for p in range(2 * len(ours) + 1):
        while end < len(levels) and theirs_need[(end + 1) // 2] <= p // 2:
            while queue and levels[queue[-1]] <= levels[end]:
                queue.pop()
            queue.append(end)
            end += 1
        while queue and queue[0] < 2 * needs[(p + 1) // 2]:
            queue.popleft()
        yield levels[queue[0]]


def _levels(lane: Sequence[Effect], kinds: Sequence[str]) -> list[int]:
    """Bytes at every point of a lane."""
    levels = [0]
    for effect in lane:
        before = levels[-1]
        levels.append(before + sum(effect.made.get(kind, 0) for kind in kinds))
        levels.append(before + sum(effect.net(kind) for kind in kinds))
    return levels


def _needs(instrs: Sequence[Instr], lane: Sequence[int], other: Sequence[int]) -> list[int]:
    """How far the other lane is before the first i instructions of a lane can have begun."""
    writer = {value: at + 1 for at, i in enumerate(other) for value in instrs[i].writes}
    needs = [0]
    for i in lane:
        needs.append(max([needs[-1], *(writer.get(value, 0) for value in instrs[i].reads)]))
    return needs

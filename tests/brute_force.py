"""The shortest order there is, found by trying: what zb-auto is measured against.

One stage a rank. Microbatches are alike, so on every rank F, I and W each run first to last, and an
order is a word a rank: FFIW. `shortest` tries all orders cleverly, `words` and `makespan` plainly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from parallel_core.pipeline.schedule import Times
from parallel_core.program import Op


class Stand(NamedTuple):
    """A rank part way through: when it is free, when each F and I ended, how many W it has done."""

    free: float = 0.0
    f: tuple[float, ...] = ()
    i: tuple[float, ...] = ()
    w: int = 0


Stands = tuple[Stand, ...]


def shortest(m: int, times: Times, cap: float, under: float = math.inf) -> float:
    """The least makespan of all orders within the cap, or `under` if none is below that.

    Tasks are placed in the order of their starts, in every possible way. A way is given up when
    the work left cannot end before the best so far, or when another with the same tasks done was
    no later in anything.
    """
    best, p = under, len(times.f)
    seen: dict[object, list[list[float]]] = {}

    def place(now: float, ranks: Stands) -> None:
        nonlocal best
        left = [
            (m - len(s.f)) * times.f[r] + (m - len(s.i)) * times.i[r] + (m - s.w) * times.w[r]
            for r, s in enumerate(ranks)
        ]
        end = max(
            max(now, s.free) + work if work else s.free for s, work in zip(ranks, left, strict=True)
        )
        if end >= best:
            return
        if all(s.w == m for s in ranks):
            best = end
            return
        clocks = [now, *(max(now, time) for time in pending(ranks))]
        others = seen.setdefault(tuple((len(s.f), len(s.i), s.w) for s in ranks), [])
        if any(all(a <= b for a, b in zip(other, clocks, strict=True)) for other in others):
            return
        others.append(clocks)
        for start, rank, op in sorted(possible(ranks, m, times.comm, cap)):
            start = max(start, now)
            end = start + times.whole(rank, op)
            s = ranks[rank]
            s = Stand(
                end,
                (*s.f, end) if op is Op.F else s.f,
                (*s.i, end) if op is Op.I else s.i,
                s.w + (op is Op.W),
            )
            place(start, (*ranks[:rank], s, *ranks[rank + 1 :]))

    place(0.0, (Stand(),) * p)
    return best


def pending(ranks: Stands) -> Iterator[float]:
    """Every time the rest depends on: who is free when, and what no neighbour has used yet."""
    for r, s in enumerate(ranks):
        yield s.free
        yield from s.f[len(ranks[r + 1].f) :] if r + 1 < len(ranks) else ()
        yield from s.i[len(ranks[r - 1].i) :] if r else ()


def possible(ranks: Stands, m: int, comm: float, cap: float) -> Iterator[tuple[float, int, Op]]:
    """The tasks that could come next: (start, rank, op)."""
    for r, s in enumerate(ranks):
        come = [0.0] * m if r == 0 else [end + comm for end in ranks[r - 1].f]
        back = [end + comm for end in ranks[r + 1].i] if r + 1 < len(ranks) else s.f
        if len(s.f) < len(come) and len(s.f) - s.w < cap:
            yield max(s.free, come[len(s.f)]), r, Op.F
        if len(s.i) < len(back):
            yield max(s.free, back[len(s.i)]), r, Op.I
        if s.w < len(s.i):
            yield s.free, r, Op.W


def words(m: int, cap: float, word: str = "") -> Iterator[str]:
    """All orders of one rank: no I before its F, no W before its I, the cap kept."""
    f, i, w = map(word.count, "FIW")
    if w == m:
        yield word
    if f < m and f - w < cap:
        yield from words(m, cap, word + "F")
    if i < f:
        yield from words(m, cap, word + "I")
    if w < i:
        yield from words(m, cap, word + "W")


def makespan(ranks: tuple[str, ...], times: Times) -> float:
    """When the last task of these words ends; infinite if they wait for each other."""
    ends: dict[tuple[int, str, int], float] = {
        (-1, "F", k): -times.comm for k in range(len(ranks[0]))
    }
    free, at = [0.0] * len(ranks), [0] * len(ranks)
    moved = True
    while moved:
        moved = False
        for r, word in enumerate(ranks):
            while at[r] < len(word):
                op, k = word[at[r]], word[: at[r]].count(word[at[r]])
                turns = op == "I" and r == len(ranks) - 1
                needs = (r, "F", k) if turns else (r + {"F": -1, "I": 1, "W": 0}[op], op, k)
                if op != "W" and needs not in ends:
                    break
                ready = 0.0 if op == "W" else ends[needs] + (0.0 if turns else times.comm)
                free[r] = ends[r, op, k] = max(free[r], ready) + times.whole(r, Op(op))
                at[r] += 1
                moved = True
    return max(free) if all(a == len(word) for a, word in zip(at, ranks, strict=True)) else math.inf

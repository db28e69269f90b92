"""Chains of waiting: rank 0 waits for rank 1, which waits for rank 2, which works.

rank 0   |~~~~~~~~ waits for 1 ~~~~~~~~|
rank 1      |~~~~~ waits for 2 ~~~~~~|  B          the culprit stood still too: follow its own
rank 2   F  |          B             |             here the chain ends
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Stand(NamedTuple):
    """A rank that stands from start to end for rank `blame`; `works` if that one worked then."""

    start: int
    end: int
    blame: int | None
    works: bool


Place = tuple[int, int]
"""(rank, position): one stand of the rows."""


def roots(rows: Sequence[Sequence[Stand]]) -> list[list[Place]]:
    """For every stand the last of its chain; each row is one rank's, in order of time.

    A culprit is followed to its longest stand of the same time. A chain ends where the culprit
    worked, blames nobody, or (clocks are not perfect) leads back into itself.
    """
    starts = [[stand.start for stand in row] for row in rows]
    ends: dict[Place, Place] = {}
    for rank, row in enumerate(rows):
        for at in range(len(row)):
            chain: list[Place] = []
            place: Place | None = (rank, at)
            while place is not None and place not in ends and place not in chain:
                chain.append(place)
                place = _next(rows, starts, rows[place[0]][place[1]])
            end = chain[-1] if place is None or place in chain else ends[place]
            ends.update(dict.fromkeys(chain, end))
    return [[ends[rank, at] for at in range(len(row))] for rank, row in enumerate(rows)]


def _next(
    rows: Sequence[Sequence[Stand]], starts: Sequence[Sequence[int]], stand: Stand
) -> Place | None:
    if stand.works or stand.blame is None or stand.blame >= len(rows):
        return None
    row, best = rows[stand.blame], 0
    found: Place | None = None
    at = max(0, bisect_right(starts[stand.blame], stand.start) - 1)
    while at < len(row) and row[at].start < stand.end:
        shared = min(row[at].end, stand.end) - max(row[at].start, stand.start)
        if shared > best:
            best, found = shared, (stand.blame, at)
        at += 1
    return found if found is None or rows[found[0]][found[1]].blame is not None else None

"""Rings and tori: every rank has a neighbour on both sides of every dimension, and edges wrap.

    torus:4x2     0 - 1 - 2 - 3 -(0)       rank = x + 4y, the first dimension innermost
                  |   |   |   |
                  4 - 5 - 6 - 7 -(4)

A message corrects one dimension after the other (dimension order), each the short way round. At
a tie, half way round an even dimension, it goes up or down by the parity of its other distances:
that spreads ties evenly and is the same for every sender, so all ranks stay alike. TPUs are tori
(scaling-book, tpus).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import permutations

from parallel_core.hardware.links import Wire
from parallel_core.hardware.topology import Link, Topology

Point = tuple[int, ...]


def coordinates(rank: int, shape: Sequence[int]) -> Point:
    """Where `rank` stands in a grid, the first dimension innermost.

    >>> coordinates(7, (4, 2))
    (3, 1)
    """
    place = []
    for size in shape:
        rank, at = divmod(rank, size)
        place.append(at)
    return tuple(place)


def number(place: Sequence[int], shape: Sequence[int]) -> int:
    """The rank at a place; places outside the grid wrap.

    >>> number((-1, 1), (4, 2))
    7
    """
    rank, stride = 0, 1
    for at, size in zip(place, shape, strict=True):
        rank += at % size * stride
        stride *= size
    return rank


def shifted(rank: int, by: int, shape: Sequence[int], sign: int = 1) -> int:
    """`rank` moved by the distance that rank `by` has from rank 0; `sign` -1 moves back.

    On a ring of n this is (rank + by) mod n.
    """
    if len(shape) == 1:
        return (rank + sign * by) % shape[0]
    places = zip(coordinates(rank, shape), coordinates(by, shape), strict=True)
    return number([a + sign * b for a, b in places], shape)


class Torus(Topology):
    """A grid of `shape` that wraps; `torus:4x4x4`."""

    kind = "torus"

    def __init__(self, shape: Sequence[int], wire: Wire) -> None:
        self.shape, self.wire = tuple(shape), wire
        self.ranks = math.prod(self.shape)

    @property
    def text(self) -> str:
        """`torus:4x4x4`."""
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    def links(self) -> Iterator[Link]:
        """Two a rank and dimension; one where the dimension has only two ranks."""
        for rank in range(self.ranks):
            place = coordinates(rank, self.shape)
            neighbours = [
                number([*place[:d], place[d] + step, *place[d + 1 :]], self.shape)
                for d in range(len(self.shape))
                for step in (1, -1)
            ]
            yield from ((rank, other) for other in dict.fromkeys(neighbours) if other != rank)

    def route(self, source: int, target: int) -> tuple[Link, ...]:
        """Dimension by dimension, the short way round."""
        place = list(coordinates(source, self.shape))
        goal = coordinates(target, self.shape)
        ways = _ways([b - a for a, b in zip(place, goal, strict=True)], self.shape)
        links, here = [], source
        for d, way in enumerate(ways):
            for _ in range(abs(way)):
                place[d] += 1 if way > 0 else -1
                there = number(place, self.shape)
                links.append((here, there))
                here = there
        return tuple(links)

    @property
    def bisection(self) -> int:
        """Two cross-sections of an even dimension, as it wraps; an odd one steps in the cut."""
        sides = [k for k in self.shape if k > 1]
        return min((_cut(order) for order in permutations(sides)), default=0)

    def loads(self) -> dict[Link, int]:
        """By symmetry: hops of host 0's own routes, by direction, stand for all hosts'."""
        hops = Counter(
            (0, shifted(b, a, self.shape, -1))
            for other in range(self.ranks)
            for a, b in self.route(0, other)
        )
        return dict(hops)


class Ring(Torus):
    """Ranks in a circle; `ring:8`."""

    kind = "ring"

    def __init__(self, ranks: int, wire: Wire) -> None:
        super().__init__((ranks,), wire)


def _ways(distances: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Steps to take in each dimension, signed: the short way round."""
    up = [distance % size for distance, size in zip(distances, shape, strict=True)]
    ways = []
    for d, (distance, size) in enumerate(zip(up, shape, strict=True)):
        others = sum(up) - up[d]
        down = 2 * distance > size or (2 * distance == size and others % 2 == 1)
        ways.append(distance - size if down else distance)
    return ways


def _cut(sides: Sequence[int]) -> int:
    """Cables of a cut across the first side, stepping into the next while sides are odd."""
    cables = 0
    for d, side in enumerate(sides):
        cables += (2 if side > 2 else 1) * math.prod(sides[d + 1 :])
        if side % 2 == 0:
            break
    return cables


def ring_order(torus: Torus) -> tuple[int, ...]:
    """The ranks of a torus in a circle: each is a neighbour of the next, the last of the first.

    Rows are walked one after another, each beginning where the last one ended; as many rows are
    walked one way as the other (or, on odd sides, so many more that the surplus closes).

    >>> from parallel_core.hardware.links import WIRES
    >>> ring_order(Torus((3, 2), WIRES["ici-v4"]))
    (0, 1, 2, 5, 4, 3)
    """
    cycle: list[Point] = [()]
    for side in torus.shape:
        cycle = _woven(cycle, side)
    return tuple(number(place, torus.shape) for place in cycle)


def _woven(cycle: list[Point], side: int) -> list[Point]:
    """A circle through all of `cycle` x `side`, given a circle through `cycle`."""
    if len(cycle) == 1 or side == 1:
        return [(*place, at) for place in cycle for at in range(side)]
    along = len(cycle)
    rows_are_sides = side % 2 == 0 or (along % 2 == 1 and side >= along)
    rows, length = (side, along) if rows_are_sides else (along, side)
    places = _rows(rows, length)
    return [(*cycle[c], s) for s, c in (p if rows_are_sides else p[::-1] for p in places)]


def _rows(rows: int, length: int) -> Iterator[tuple[int, int]]:
    """(row, place in it) of a closed walk over a grid that wraps; rows even, or both odd."""
    forward = rows // 2 if rows % 2 == 0 else (rows + length) // 2
    at = 0
    for row in range(rows):
        step = 1 if row < forward else -1
        for _ in range(length):
            yield row, at % length
            at += step
        at -= step  # the next row begins beside the last place

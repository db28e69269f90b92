"""The mesh: ranks arranged as a grid with named axes.

    dp=2 tp=2, inner to outer "tp", "dp"      tp ->
                                         dp   0  1
                                          |   2  3

A *group* along an axis is the set of ranks that differ in that axis alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Mesh:
    """Named axes with their degrees, listed inner (neighbouring ranks) to outer.

    >>> mesh = Mesh((("tp", 4), ("dp", 2), ("pp", 2)))
    >>> mesh.coordinate(13)
    {'tp': 1, 'dp': 1, 'pp': 1}
    >>> mesh.group(13, "dp")
    (9, 13)
    """

    axes: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """The world size: how many ranks the mesh holds."""
        return math.prod(degree for _, degree in self.axes)

    def degree(self, axis: str) -> int:
        """How many ranks a group along `axis` has; 1 for an axis that is not in the mesh."""
        return dict(self.axes).get(axis, 1)

    def coordinate(self, rank: int) -> dict[str, int]:
        """Where `rank` stands, axis by axis."""
        place = {}
        for axis, degree in self.axes:
            rank, place[axis] = divmod(rank, degree)
        return place

    def rank(self, **place: int) -> int:
        """The rank at a coordinate; axes not named are 0."""
        rank, stride = 0, 1
        for axis, degree in self.axes:
            rank += place.get(axis, 0) * stride
            stride *= degree
        return rank

    def group(self, rank: int, axis: str) -> tuple[int, ...]:
        """The ranks that share every coordinate of `rank` but the one along `axis`."""
        place = self.coordinate(rank)
        return tuple(self.rank(**{**place, axis: i}) for i in range(self.degree(axis)))

    def groups(self, axis: str) -> tuple[tuple[int, ...], ...]:
        """Every group along `axis`, each once, in rank order."""
        return tuple(dict.fromkeys(self.group(rank, axis) for rank in range(self.size)))

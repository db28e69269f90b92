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

    `joins` names the product of neighbouring axes as one: dp = shard x replica. Groups, degrees
    and coordinates work along it as along an axis.

    >>> mesh = Mesh((("tp", 4), ("dp", 2), ("pp", 2)))
    >>> mesh.coordinate(13)
    {'tp': 1, 'dp': 1, 'pp': 1}
    >>> mesh.group(13, "dp")
    (9, 13)
    >>> hybrid = Mesh((("shard", 2), ("replica", 3)), joins=(("dp", ("shard", "replica")),))
    >>> hybrid.group(1, "replica"), hybrid.degree("dp"), hybrid.coordinate(5)["dp"]
    ((1, 3, 5), 6, 5)
    """

    axes: tuple[tuple[str, int], ...]
    joins: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that has groups: the axes, then the joined ones."""
        return (*(axis for axis, _ in self.axes), *(name for name, _ in self.joins))

    @property
    def size(self) -> int:
        """The world size: how many ranks the mesh holds."""
        return math.prod(degree for _, degree in self.axes)

    def degree(self, axis: str) -> int:
        """How many ranks a group along `axis` has; 1 for an axis that is not in the mesh."""
        degrees = dict(self.axes)
        return math.prod(degrees.get(part, 1) for part in self._parts(axis))

    def _parts(self, axis: str) -> tuple[str, ...]:
        return dict(self.joins).get(axis, (axis,))

    def coordinate(self, rank: int) -> dict[str, int]:
        """Where `rank` stands, axis by axis."""
        place = {}
        for axis, degree in self.axes:
            rank, place[axis] = divmod(rank, degree)
        for name, parts in self.joins:
            place[name] = 0
            for axis in reversed(parts):
                place[name] = place[name] * self.degree(axis) + place[axis]
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
        place = {name: at for name, at in self.coordinate(rank).items() if name in dict(self.axes)}
        parts = self._parts(axis)
        members = []
        for i in range(self.degree(axis)):
            for part in parts:
                i, place[part] = divmod(i, self.degree(part))
            members.append(self.rank(**place))
        return tuple(members)

    def groups(self, axis: str) -> tuple[tuple[int, ...], ...]:
        """Every group along `axis`, each once, in rank order."""
        return tuple(dict.fromkeys(self.group(rank, axis) for rank in range(self.size)))

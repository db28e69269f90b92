"""Where the hosts, switches and cables of a topology are drawn; coordinates, no colours.

    ring, mesh   hosts on a circle                    fat tree    spines, leaves, hosts in rows;
    torus        planes of a grid, wraps as stubs                 a leaf's cables up as one trunk
                                                      two-level   a box a node, the core above

Every direction of a cable is a line of its own, a little to the right of the cable's middle, as
on a road. A link that leaves the edge of a grid is drawn as two stubs: out here, in there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from parallel_core.hardware.fat_tree import FatTree
from parallel_core.hardware.topology import Link, Topology
from parallel_core.hardware.torus import Torus, coordinates
from parallel_core.hardware.two_level import TwoLevel

Point = tuple[float, float]
Segment = tuple[Point, Point]

_LANE = 0.06  # how far to the right of the middle a direction runs, in units of a grid step
_STUB = 0.42  # length of a stub


@dataclass(frozen=True)
class Line:
    """One direction as it is drawn: the links it stands for, and its segments."""

    links: tuple[Link, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Layout:
    """Points of the vertices that are drawn, with names; boxes (left, bottom, right, top, name)."""

    points: dict[int, Point]
    names: dict[int, str]
    lines: tuple[Line, ...]
    boxes: tuple[tuple[float, float, float, float, str], ...] = field(default=())


def layout(topology: Topology) -> Layout:
    """The drawing of a topology by its kind."""
    return LAYOUTS[topology.kind](topology)


def _circle(topology: Topology) -> Layout:
    """Rank 0 at the top, then clockwise; a step along the rim is about one unit."""
    radius = max(1.0, topology.ranks / math.tau)
    angles = [math.pi / 2 - math.tau * rank / topology.ranks for rank in range(topology.ranks)]
    points = {r: (radius * math.cos(a), radius * math.sin(a)) for r, a in enumerate(angles)}
    return _straight(topology, points)


def _grid(topology: Topology) -> Layout:
    """Planes of the first two dimensions in rows; further dimensions as slanting stubs."""
    assert isinstance(topology, Torus)
    shape = topology.shape
    if len(shape) == 1:
        return _circle(topology)
    plane = shape[0] * shape[1]
    count = topology.ranks // plane
    corners = _corners(count, shape)
    points: dict[int, Point] = {}
    for rank in range(topology.ranks):
        x, y, *_ = coordinates(rank, shape)
        left, top = corners[rank // plane]
        points[rank] = (x + left, top - y)
    lines = tuple(
        Line(((a, b),), _grid_segments(points, (a, b), shape)) for a, b in topology.links()
    )
    boxes: tuple[tuple[float, float, float, float, str], ...] = ()
    if count > 1:
        boxes = tuple(
            (x - 0.55, y - shape[1] + 0.45, x + shape[0] - 0.45, y + 0.55, _plane_name(p, shape))
            for p, (x, y) in enumerate(corners)
        )
    return Layout(points, _names(topology, points), lines, boxes)


def _corners(count: int, shape: tuple[int, ...]) -> list[Point]:
    """Where the first host of each plane stands: planes fill a square, row after row."""
    a_row = math.ceil(math.sqrt(count * shape[1] / shape[0]))
    wide, high = shape[0] + 1.4, shape[1] + 1.4
    return [(wide * (p % a_row), -high * (p // a_row)) for p in range(count)]


def _plane_name(plane: int, shape: tuple[int, ...]) -> str:
    return f"plane {','.join(map(str, coordinates(plane, shape[2:])))}"


def _grid_segments(
    points: dict[int, Point], link: Link, shape: tuple[int, ...]
) -> tuple[Segment, ...]:
    """One segment between neighbours, or two stubs where the way wraps or leaves the plane."""
    here, there = (coordinates(end, shape) for end in link)
    (d,) = (d for d, (a, b) in enumerate(zip(here, there, strict=True)) if a != b)
    step = there[d] - here[d]
    start, end = points[link[0]], points[link[1]]
    if d < 2 and abs(step) == 1:
        return (_beside(start, end),)
    up = (step == 1) or (step < -1)  # which way the message moves round this dimension
    way = (1.0, 0.0) if d == 0 else (0.0, -1.0) if d == 1 else (0.62, 0.62)
    way = way if up else (-way[0], -way[1])
    reach = (_STUB * way[0], _STUB * way[1])
    out = (start[0] + reach[0], start[1] + reach[1])
    into = (end[0] - reach[0], end[1] - reach[1])
    return _beside(start, out), _beside(into, end)


def _tree(topology: Topology) -> Layout:
    """Hosts below, their leaf above them; all spines as one bar that the trunks run into."""
    assert isinstance(topology, FatTree)
    n, leaves, per_leaf = topology.ranks, topology.leaves, topology.leaf
    gap = 0.6
    points: dict[int, Point] = {rank: (rank + gap * (rank // per_leaf), 0.0) for rank in range(n)}
    height = max(1.5, n / 10)
    for leaf in range(leaves):
        xs = [points[leaf * per_leaf + k][0] for k in range(per_leaf)]
        points[n + leaf] = (sum(xs) / per_leaf, height)
    lines = [
        Line((link,), (_beside(points[link[0]], points[link[1]]),))
        for link in topology.links()
        if max(link) < n + leaves
    ]
    boxes: tuple[tuple[float, float, float, float, str], ...] = ()
    if topology.spines:
        right = points[n - 1][0]
        name = f"{topology.spines} spine{'s' if topology.spines > 1 else ''}"
        boxes = ((-0.4, 2 * height, right + 0.4, 2 * height + 0.35 * height, name),)
        spines = range(n + leaves, topology.vertices)
        for leaf in range(n, n + leaves):
            foot = points[leaf]
            top = (foot[0], 2 * height)
            lines.append(Line(tuple((leaf, s) for s in spines), (_beside(foot, top),)))
            lines.append(Line(tuple((s, leaf) for s in spines), (_beside(top, foot),)))
    return Layout(points, _names(topology, points), tuple(lines), boxes)


def _nodes(topology: Topology) -> Layout:
    """A box a node with its switch below and its network cards above; the core on top."""
    assert isinstance(topology, TwoLevel)
    per_node, wide = topology.per_node, topology.per_node + 1.0
    points: dict[int, Point] = {}
    boxes = []
    for rank in range(topology.ranks):
        node, place = divmod(rank, per_node)
        points[rank] = (wide * node + place, 0.0)
    for node in range(topology.nodes):
        left, middle = wide * node, wide * node + (per_node - 1) / 2
        points[topology.ranks + node] = (middle, -1.2)
        boxes.append((left - 0.5, -1.6, left + per_node - 0.5, 1.6, f"node {node}"))
    if topology.nodes > 1:
        for card in range(topology.nodes * topology.nics):
            node, place = divmod(card, topology.nics)
            x = wide * node + (place + 0.5) * per_node / topology.nics - 0.5
            points[topology.ranks + topology.nodes + card] = (x, 1.2)
        points[topology.core] = ((wide * topology.nodes - 2) / 2, max(3.0, wide / 2))
    return _straight(topology, points, tuple(boxes))


def _straight(
    topology: Topology,
    points: dict[int, Point],
    boxes: tuple[tuple[float, float, float, float, str], ...] = (),
) -> Layout:
    """Every link a straight line."""
    lines = tuple(Line(((a, b),), (_beside(points[a], points[b]),)) for a, b in topology.links())
    return Layout(points, _names(topology, points), lines, boxes)


def _names(topology: Topology, points: dict[int, Point]) -> dict[int, str]:
    return {vertex: topology.name(vertex) for vertex in points}


def _beside(start: Point, end: Point) -> Segment:
    """The segment moved to its own right-hand side."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    right = (_LANE * dy / length, -_LANE * dx / length)
    return (
        (start[0] + right[0], start[1] + right[1]),
        (end[0] + right[0], end[1] + right[1]),
    )


LAYOUTS: dict[str, Callable[[Topology], Layout]] = {
    "ring": _circle,
    "mesh": _circle,
    "torus": _grid,
    "fat-tree": _tree,
    "two-level": _nodes,
}
"""Kind of topology -> its drawing."""

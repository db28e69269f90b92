"""The mesh as a cube: every rank where it stands, the groups of one axis, and the nodes.

    to the right    the innermost axis            a box's colour   its group along the chosen axis
    to the back     the next one                  its number       the rank
    upwards         the third                     below that       its node
    beside          every further one

Lines join the ranks of a group: thick inside a node, dashed where they cross between nodes. The
picked rank and its group have a heavy edge.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from parallel_core.mesh import Mesh
from parallel_core.plan import Plan
from parallel_core.views.frame import PAGES, ink
from parallel_core.views.hues import hues
from parallel_core.views.palette import contrast, mix

MOST = 64
"""Ranks that are drawn; of more the tables tell."""

_WIDE, _HIGH = 42.0, 36.0  # a box
_STEP_X, _STEP_Z = 96.0, 112.0  # to the next one to the right, and upwards
_BACK = (52.0, -47.0)  # to the next one behind
_GAP = 46.0  # between cubes


@dataclass(frozen=True, kw_only=True)
class Cube:
    """What is drawn: a plan's mesh on nodes of so many ranks, one axis and one rank picked."""

    plan: Plan
    per_node: int
    axis: str
    rank: int = 0
    dark: bool = False

    @property
    def mesh(self) -> Mesh:
        """The plan's mesh."""
        return self.plan.mesh

    @property
    def axes(self) -> list[tuple[str, int]]:
        """The axes that have more than one rank, inner to outer."""
        return [(name, degree) for name, degree in self.mesh.axes if degree > 1]

    def node(self, rank: int) -> int:
        """The node that a rank is on: neighbours fill one after another."""
        return rank // self.per_node

    def place(self, rank: int) -> tuple[float, float]:
        """Left and top of a rank's box."""
        at = self.mesh.coordinate(rank)
        x, y, beside = 0.0, 0.0, 0
        for number, (name, degree) in enumerate(self.axes):
            if number == 0:
                x += at[name] * _STEP_X
            elif number == 1:
                x, y = x + at[name] * _BACK[0], y + at[name] * _BACK[1]
            elif number == 2:
                y -= at[name] * _STEP_Z
            else:
                beside = beside * degree + at[name]
        return x + beside * (self.width + _GAP), y

    @property
    def width(self) -> float:
        """Of one cube."""
        degrees = [degree for _, degree in self.axes[:2]]
        right = (degrees[0] - 1) * _STEP_X if degrees else 0.0
        back = (degrees[1] - 1) * _BACK[0] if len(degrees) > 1 else 0.0
        return right + back + _WIDE


def shown_axes(plan: Plan) -> list[str]:
    """The axes and joins whose groups can be shown: those of more than one rank, each once."""
    names = [name for name in plan.mesh.names if plan.mesh.degree(name) > 1]
    groups: dict[object, str] = {}
    for name in names:
        groups.setdefault(plan.mesh.groups(name), name)
    return list(groups.values())


def drawing(cube: Cube) -> str:
    """The cube as one SVG with its own style."""
    ranks = range(cube.mesh.size)
    places = {rank: cube.place(rank) for rank in ranks}
    left, top = (min(place[i] for place in places.values()) - 8 for i in (0, 1))
    right = max(x for x, _ in places.values()) + _WIDE + 8
    below = max(y for _, y in places.values()) + _HIGH + 8
    parts = [*_lines(cube, places)]
    parts += [_box(cube, rank, places[rank]) for rank in sorted(ranks, key=lambda r: places[r][1])]
    size = f"{left:.0f} {top:.0f} {right - left:.0f} {below - top:.0f}"
    most = 1.25 * (right - left)
    return (
        f"{_sheet(cube)}<div class='cube'><svg viewBox='{size}' style='max-width:{most:.0f}px'"
        f" role='img' aria-label='{html.escape(in_words(cube))}'>{''.join(parts)}</svg></div>"
    )


def in_words(cube: Cube) -> str:
    """The picture in a few sentences."""
    degrees = " x ".join(f"{name}={degree}" for name, degree in cube.axes) or "one rank"
    groups = cube.mesh.groups(cube.axis)
    own = ", ".join(map(str, cube.mesh.group(cube.rank, cube.axis)))
    nodes = cube.node(cube.mesh.size - 1) + 1
    where = f"{nodes} nodes of {cube.per_node}" if nodes > 1 else "one node"
    return (
        f"{cube.mesh.size} ranks on {where}, inner to outer {degrees}. Along {cube.axis} there are"
        f" {len(groups)} groups of {len(groups[0])}; that of rank {cube.rank} is {own}, which"
        f" {crossing(cube.plan, cube.axis, cube.per_node)}."
    )


def crossing(plan: Plan, axis: str, per_node: int) -> str:
    """Which wire the groups of an axis use, in words."""
    apart = [len({rank // per_node for rank in group}) for group in plan.mesh.groups(axis)]
    if max(apart) == 1:
        return "stays inside a node"
    if min(apart) == plan.mesh.degree(axis):
        return "crosses nodes, each rank on another"
    return "crosses nodes"


def _lines(cube: Cube, places: Mapping[int, tuple[float, float]]) -> list[str]:
    """Between neighbours of every group along the axis."""
    found = []
    for group in cube.mesh.groups(cube.axis):
        mine = " mine" if cube.rank in group else ""
        for one, other in pairwise(group):
            kind = "in" if cube.node(one) == cube.node(other) else "out"
            (a, b), (c, d) = places[one], places[other]
            found.append(
                f"<line class='{kind}{mine}' x1='{a + _WIDE / 2:.1f}' y1='{b + _HIGH / 2:.1f}'"
                f" x2='{c + _WIDE / 2:.1f}' y2='{d + _HIGH / 2:.1f}'/>"
            )
    return found


def _box(cube: Cube, rank: int, place: tuple[float, float]) -> str:
    x, y = place
    groups = cube.mesh.groups(cube.axis)
    number = next(i for i, group in enumerate(groups) if rank in group)
    fill = hues(len(groups))[number][cube.dark]
    letters = max(("#000000", "#FFFFFF"), key=lambda each: contrast(each, fill))
    state = "picked" if rank == cube.rank else "mine" if cube.rank in groups[number] else "other"
    at = cube.mesh.coordinate(rank)
    said = ", ".join(f"{name}={at[name]}" for name, _ in cube.axes)
    title = f"rank {rank}: {said or 'alone'}; node {cube.node(rank)}; group {number} of {cube.axis}"
    top = f"{x},{y} {x + 7},{y - 7} {x + _WIDE + 7},{y - 7} {x + _WIDE},{y}"
    side = (
        f"{x + _WIDE},{y} {x + _WIDE + 7},{y - 7} {x + _WIDE + 7},{y + _HIGH - 7}"
        f" {x + _WIDE},{y + _HIGH}"
    )
    return (
        f"<g class='box {state}' data-rank='{rank}'><title>{html.escape(title)}</title>"
        f"<polygon points='{top}' fill='{mix(fill, '#FFFFFF', 0.75)}'/>"
        f"<polygon points='{side}' fill='{mix(fill, '#000000', 0.7)}'/>"
        f"<rect x='{x}' y='{y}' width='{_WIDE}' height='{_HIGH}' fill='{fill}'/>"
        f"<text x='{x + _WIDE / 2}' y='{y + 13}' fill='{letters}'>{rank}</text>"
        f"<text class='node' x='{x + _WIDE / 2}' y='{y + 28}' fill='{letters}'>"
        f"n{cube.node(rank)}</text></g>"
    )


def _sheet(cube: Cube) -> str:
    letters, page = ink(cube.dark), PAGES[cube.dark]
    return (
        "<style>.cube { overflow-x: auto; } .cube svg { width: 100%; height: auto; display: block;"
        " font-family: inherit; }"
        ".cube .box { cursor: pointer; }"
        ".cube text { font-size: 14px; text-anchor: middle; dominant-baseline: central;"
        " font-variant-numeric: tabular-nums; font-weight: 600; }"
        ".cube text.node { font-size: 10px; font-weight: 400; }"
        f".cube polygon, .cube rect {{ stroke: {mix(letters, page, 0.45)}; stroke-width: .8; }}"
        f".cube .mine rect {{ stroke: {letters}; stroke-width: 2; }}"
        f".cube .picked rect {{ stroke: {letters}; stroke-width: 4; }}"
        f".cube line {{ stroke: {mix(letters, page, 0.4)}; stroke-width: 4; }}"
        ".cube line.out { stroke-width: 2.2; stroke-dasharray: 6 4; }"
        f".cube line.mine {{ stroke: {letters}; }}</style>"
    )


def axis_rows(
    plan: Plan, per_node: int, bytes_of: Mapping[str, Mapping[str, int]]
) -> list[dict[str, str]]:
    """A row an axis: its degree, its groups, which wire, what it carries; `bytes_of` has, by axis
    and op, the bytes that a step puts on the wire."""
    rows = []
    for axis in plan.mesh.names:
        degree = plan.mesh.degree(axis)
        if degree == 1:
            continue
        group = plan.mesh.group(0, axis)
        ops = bytes_of.get(axis, {})
        said = "; ".join(f"{op} {size:,} B" for op, size in ops.items()) or "nothing by itself"
        rows.append(
            {
                "axis": axis,
                "ranks": str(degree),
                "groups": str(len(plan.mesh.groups(axis))),
                "rank 0's group": ", ".join(map(str, group[:8])) + (" …" if degree > 8 else ""),
                "wire": crossing(plan, axis, per_node),
                "a step sends": said,
            }
        )
    return rows


SCRIPT = """
/* The ShardLab mesh cube: a press on a box names its rank. The page has a field for it as well. */
export default function ({ parentElement, data, setTriggerValue }) {
  const root = parentElement.querySelector("#cube");
  root.innerHTML = typeof data === "string" ? data : new TextDecoder().decode(data);
  root.onclick = (event) => {
    const box = event.target.closest("[data-rank]");
    if (box) setTriggerValue("picked", Number(box.dataset.rank));
  };
}
"""
"""What makes the boxes answer."""

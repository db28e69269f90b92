"""Double binary tree: half of the buffer over one tree, half over another.

In a single binary tree half of the ranks are leaves, and leaves have nobody to send to. Of two
trees, each carries half of the bytes, and who is a leaf in one has children in the other (for odd
n all but one rank): every port works, and the depth stays log2 n.

    m=8, first tree     0 ------ 4          second tree: the same in the mirror, 7 - node
                              2     6       (for odd m moved by one place, node + 1)
                             1 3   5 7

A rank has at most two edges to children and two from parents, so the edges can take *turns*: in
every other step each port has one message. Cut into many `segments` that follow each other two
steps apart, all ports are busy, and a broadcast takes little more than S/beta.

Sanders, Speck and Traeff 2009, doi:10.1016/j.parco.2009.09.001; the trees are those of NCCL.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Script
from parallel_core.program import Program


def broadcast(group: Group) -> Program:
    """x[C] @root -> x[C].  The root sends each half to the top of a tree over all other ranks.

    Time towards S/β with more segments.

        n=5   step 0     step 1     step 2     step 3     step 4
        r0    c0 -> r1   c1 -> r4   .          .          .
        r1    .          c0 -> r3   .          .          .
        r2    .          .          .          c1 -> r1   c1 -> r3
        r3    .          .          c0 -> r4   c0 -> r2   .
        r4    .          .          c1 -> r2   .          .
    """
    script = Script("broadcast", "double_tree", group, 2 * group.segments)
    for step, c, edge in _pieces(group, down(edges(group.n - 1, rooted=True))):
        source, destination = (group.from_root(1 + node) for node in (edge.parent, edge.child))
        script.copy(step, source, destination, [v.x(c)])
    return script.program()


def all_reduce(group: Group) -> Program:
    """x[C]+r -> x[C].  Each half is summed up its tree and comes down it again.

    Time towards 2 S/β with more segments.

        n=4   step 0     step 1     step 2     step 3     step 4     step 5     step 6     step 7
        r0    c1 -> r1   .          .          .          c0 -> r2   .          .          .
        r1    c0 -> r2   .          .          c1 -> r3   .          .          c1 -> r0   c1 -> r2
        r2    .          c1 -> r1   c0 -> r0   .          .          c0 -> r3   c0 -> r1   .
        r3    .          c0 -> r2   .          .          .          c1 -> r1   .          .
    """
    script = Script("all_reduce", "double_tree", group, 2 * group.segments)
    both = edges(group.n)
    for step, c, edge in _pieces(group, up(both)):
        script.reduce(step, edge.child, edge.parent, (c,))
    for step, c, edge in _pieces(group, down(both)):
        script.copy(steps(up(both), group) + step, edge.parent, edge.child, [v.total(c)])
    return script.program()


class Edge(NamedTuple):
    """An edge of tree number `half`; its ports serve it at every other step: 0 even, 1 odd."""

    half: int
    parent: int
    child: int
    turn: int


Timetable = dict[Edge, int]
"""The step of each edge's first segment."""


def trees(m: int) -> tuple[dict[int, int], dict[int, int]]:
    """Child -> parent of the two trees over nodes 0 .. m-1; the top is nobody's child."""
    first = {node: _parent(node, m) for node in range(1, m)}
    if m % 2:
        return first, {(a + 1) % m: (b + 1) % m for a, b in first.items()}
    return first, {m - 1 - a: m - 1 - b for a, b in first.items()}


def edges(m: int, *, rooted: bool = False) -> tuple[Edge, ...]:
    """The edges of both trees, parents first; `rooted` adds one from node m to either top."""
    plain = []
    for half, tree in enumerate(trees(m)):
        level = sorted(set(range(m)) - set(tree))
        plain += [(half, m, top) for top in level if rooted]
        while level:
            below = [(half, tree[node], node) for node in sorted(tree) if tree[node] in level]
            plain += below
            level = [child for _, _, child in below]
    return tuple(Edge(*edge, turn) for edge, turn in zip(plain, _turns(plain), strict=True))


def down(both: tuple[Edge, ...]) -> Timetable:
    """Each edge at its first turn after its parent has heard."""
    at: Timetable = {}
    heard = {(half, node): -1 for half, node, _, _ in both}
    for edge in both:
        at[edge] = _turn_after(heard[edge.half, edge.parent], edge)
        heard[edge.half, edge.child] = at[edge]
    return at


def up(both: tuple[Edge, ...]) -> Timetable:
    """Each edge at its first turn after its child has heard from all children of its own."""
    at: Timetable = {}
    heard: dict[tuple[int, int], int] = defaultdict(lambda: -1)
    for edge in reversed(both):
        at[edge] = _turn_after(heard[edge.half, edge.child], edge)
        heard[edge.half, edge.parent] = max(heard[edge.half, edge.parent], at[edge])
    return at


def steps(timetable: Timetable, group: Group) -> int:
    """Steps until the last segment is through: at most 2 (levels + segments)."""
    return 1 + max(timetable.values()) + 2 * (group.segments - 1)


def _pieces(group: Group, timetable: Timetable) -> Iterator[tuple[int, int, Edge]]:
    """(step, chunk, edge) of every message, in order of steps."""
    q = group.segments
    yield from sorted(
        (step + 2 * piece, edge.half * q + piece, edge)
        for edge, step in timetable.items()
        for piece in range(q)
    )


def _parent(node: int, m: int) -> int:
    """Odd nodes are leaves; a node whose lowest bit is `low` stands between two with half of it."""
    low = node & -node
    above = (node ^ low) | (low << 1)
    return above if above < m else node ^ low


def _turn_after(step: int, edge: Edge) -> int:
    return step + 1 + (step + 1 + edge.turn) % 2


def _turns(plain: list[tuple[int, int, int]]) -> list[int]:
    """0 or 1 for each edge, so that no node has two of its children, or parents, in one turn.

    A node has two of each at most, so edges that share one form chains and rings of even length:
    walked along, they alternate.
    """
    share: dict[tuple[str, int], list[int]] = defaultdict(list)
    for at, (_, parent, child) in enumerate(plain):
        share["from", parent].append(at)
        share["to", child].append(at)
    turn: dict[int, int] = {}
    for start in range(len(plain)):
        walk = [(start, 0)]
        while walk:
            at, mine = walk.pop()
            if at not in turn:
                turn[at] = mine
                _, parent, child = plain[at]
                walk += [(other, 1 - mine) for other in share["from", parent] + share["to", child]]
    return [turn[at] for at in range(len(plain))]

"""Double binary tree: half of the buffer over one tree, half over another.

In a single binary tree half of the ranks are leaves, and leaves have nobody to send to. Of two
trees, each carries half of the bytes, and who is a leaf in one has children in the other (for odd
n all but one rank): every link works, and the depth stays log2 n. Cut into many `segments`, which
follow each other down the tree, a broadcast takes little more than S/beta.

    m=8, first tree     0 ------ 4          second tree: the same in the mirror, 7 - node
                              2     6       (for odd m moved by one place, node + 1)
                             1 3   5 7

Sanders, Speck and Traeff 2009, doi:10.1016/j.parco.2009.09.001; the trees are those of NCCL.
"""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.script import Script
from parallel_core.program import Program


def broadcast(group: Group) -> Program:
    """x[C] @root -> x[C].  The root sends each half to the top of a tree over all other ranks.

    Time towards S/β with more segments.

        n=5   step 0               step 1     step 2
        r0    c0 -> r1; c1 -> r4   .          .
        r1    .                    c0 -> r3   .
        r2    .                    .          c1 -> r1 r3
        r3    .                    .          c0 -> r2 r4
        r4    .                    c1 -> r2   .
    """
    script = Script("broadcast", "double_tree", group, 2 * group.segments)
    for half, tree in enumerate(trees(group.n - 1)):
        ranks = [group.from_root(1 + node) for node in range(group.n - 1)]
        for q in range(group.segments):
            value = [v.x(half * group.segments + q)]
            script.copy(q, group.root, ranks[tree.top], value)
            for depth, parent, child in tree.edges:
                script.copy(1 + depth + q, ranks[parent], ranks[child], value)
    return script.program()


def all_reduce(group: Group) -> Program:
    """x[C]+r -> x[C].  Each half is summed up its tree and comes down it again.

    Time towards 2 S/β with more segments.

        n=4   step 0     step 1     step 2     step 3
        r0    c1 -> r1   .          c0 -> r2   .
        r1    c0 -> r2   c1 -> r3   .          c1 -> r0 r2
        r2    c1 -> r1   c0 -> r0   .          c0 -> r1 r3
        r3    c0 -> r2   .          c1 -> r1   .
    """
    script = Script("all_reduce", "double_tree", group, 2 * group.segments)
    for half, tree in enumerate(trees(group.n)):
        for q in range(group.segments):
            c = half * group.segments + q
            for depth, parent, child in reversed(tree.edges):
                script.reduce(tree.height - 1 - depth + q, child, parent, (c,))
            for depth, parent, child in tree.edges:
                script.copy(tree.height + depth + q, parent, child, [v.total(c)])
    return script.program()


@dataclass(frozen=True)
class Tree:
    """A tree over m nodes: its top, its height, and (depth of the parent, parent, child)."""

    top: int
    height: int
    edges: tuple[tuple[int, int, int], ...]


def trees(m: int) -> tuple[Tree, Tree]:
    """The two trees over m nodes; what has children in one is a leaf in the other."""
    first = {node: _parent(node, m) for node in range(1, m)}
    if m % 2:
        second = {(a + 1) % m: (b + 1) % m for a, b in first.items()}
        return _tree(0, first), _tree(1 % m, second)
    return _tree(0, first), _tree(m - 1, {m - 1 - a: m - 1 - b for a, b in first.items()})


def _parent(node: int, m: int) -> int:
    """Odd nodes are leaves; a node whose lowest bit is `low` stands between two with half of it."""
    low = node & -node
    above = (node ^ low) | (low << 1)
    return above if above < m else node ^ low


def _tree(top: int, parents: dict[int, int]) -> Tree:
    depth = {top: 0}
    edges = []
    level = [top]
    while level:
        below = [node for node, parent in sorted(parents.items()) if parent in level]
        edges += [(depth[parents[node]], parents[node], node) for node in below]
        depth |= {node: depth[parents[node]] + 1 for node in below}
        level = below
    return Tree(top, max(depth.values()), tuple(edges))

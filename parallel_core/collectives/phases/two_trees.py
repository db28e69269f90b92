"""What a double binary tree costs. Node 0 has one child, odd nodes none, the others one or two.

Bytes and messages are counted from that alone. The steps are the timetable's (double_tree.py):
which turn an edge gets has no closed form, 2 (levels + segments) a way is the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parallel_core.collectives.double_tree import down, edges, steps, up
from parallel_core.collectives.group import Group
from parallel_core.collectives.phases import Phase


def _half(g: Group, b: Sequence[int], t: int) -> int:
    return sum(b[t * g.segments : (t + 1) * g.segments])


def _twin(v: int, m: int) -> int:
    """Where the second tree puts node v: in the mirror, or one place on."""
    return (v - 1) % m if m % 2 else m - 1 - v


def _below(v: int, m: int) -> int:
    if v == 0:
        return int(m > 1)
    return 0 if v % 2 else 1 + (v + 1 < m)


def _tree_sent(g: Group, b: Sequence[int], r: int) -> int:
    places = (r, _twin(r, g.n))
    return sum(_below(v, g.n) * _half(g, b, t) for t, v in enumerate(places))


def _tree_received(g: Group, b: Sequence[int], r: int) -> int:
    return sum(_half(g, b, t) for t, v in enumerate((r, _twin(r, g.n))) if v)


def _rooted_sent(g: Group, b: Sequence[int], r: int) -> int:
    v, m = (r - g.root) % g.n - 1, g.n - 1
    if r == g.root:
        return sum(b)
    return sum(_below(w, m) * _half(g, b, t) for t, w in enumerate((v, _twin(v, m))))


TWO_TREES_DOWN = Phase(
    sent=_tree_sent,
    received=_tree_received,
    messages=lambda g: 2 * g.segments * (g.n - 1),
    steps=lambda g: steps(down(edges(g.n)), g),
    path=lambda g: None,
)
TWO_TREES_UP = replace(TWO_TREES_DOWN.turned, steps=lambda g: steps(up(edges(g.n)), g))
TWO_TREES_FROM_ROOT = Phase(
    sent=_rooted_sent,
    received=lambda g, b, r: 0 if r == g.root else sum(b),
    messages=lambda g: 2 * g.segments * (g.n - 1),
    steps=lambda g: steps(down(edges(g.n - 1, rooted=True)), g),
    path=lambda g: None,
)

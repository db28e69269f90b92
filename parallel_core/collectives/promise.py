"""What each collective promises: who holds what before, and who holds what after.

`x[n, C]` is a buffer of n chunks of C elements. `/r` is sharded over the ranks, `+r` a sum whose
terms lie on different ranks, `@root` on the root alone, nothing is replicated: a collective is a
rewrite of a layout.

    broadcast       x[C] @root -> x[C]
    scatter         x[n, C] @root -> x[n/r, C]
    gather          x[n/r, C] -> x[n, C] @root
    reduce          x[C]+r -> x[C] @root
    all_gather      x[n/r, C] -> x[n, C]
    reduce_scatter  x[n, C]+r -> x[n/r, C]
    all_reduce      x[C]+r -> x[C]
    all_to_all      x[n/r, d, C] -> x[n, d/r, C]
    barrier         nothing moves; nobody leaves before the last has come
    send_recv       x[C] of rank r -> rank r + 1

A promise is a relation between inputs and outputs, term by term. Read from right to left it is
another collective's promise: the transpose, which is the backward (`TRANSPOSE` in __init__).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.program import Value
from parallel_core.terms import Term

Ends = tuple[dict[Value, frozenset[Term]], ...]
"""Per rank: each value promised, and the terms that add up to it."""


@dataclass(frozen=True)
class Promise:
    """Per rank what is held at the start and, term by term, what is there at the end.

    A term is (name, rank, index) of an input: `("x", 2, 0)` is rank 2's x[0].
    """

    holds: tuple[tuple[Value, ...], ...]
    ends: Ends

    @property
    def keeps(self) -> tuple[tuple[Value, ...], ...]:
        """Inputs, which stay as they are, and outputs."""
        pairs = zip(self.holds, self.ends, strict=True)
        return tuple(tuple(dict.fromkeys((*held, *ends))) for held, ends in pairs)


def term(rank: int, value: Value) -> Term:
    """The name of an input on its rank."""
    return (value.name, rank, value.at[0])


def promise(op: str, group: Group, chunks: int) -> Promise:
    """What `op` promises to `group` for a buffer of so many chunks; ValueError for another op."""
    if op not in _PROMISES:
        raise ValueError(f"{op!r} is no collective; choose one of {', '.join(_PROMISES)}")
    return _PROMISES[op](group, range(chunks))


def layouts() -> dict[str, str]:
    """Every op's line of the table above."""
    return dict(re.findall(r"^    (\w+) {2,}(.*)$", __doc__ or "", re.M))


def _own(rank: int, *values: Value) -> dict[Value, frozenset[Term]]:
    return {value: frozenset({term(rank, value)}) for value in values}


def _summed(group: Group, *chunks: int) -> dict[Value, frozenset[Term]]:
    return {v.total(c): frozenset(term(r, v.x(c)) for r in group.ranks) for c in chunks}


def _whole(group: Group, cs: range) -> tuple[tuple[Value, ...], ...]:
    return (tuple(map(v.x, cs)),) * group.n


def _shards(group: Group) -> tuple[tuple[Value, ...], ...]:
    return tuple((v.x(r),) for r in group.ranks)


def _at_root(group: Group, cs: range) -> tuple[tuple[Value, ...], ...]:
    return tuple(tuple(map(v.x, cs)) if r == group.root else () for r in group.ranks)


def _broadcast(group: Group, cs: range) -> Promise:
    return Promise(_at_root(group, cs), (_own(group.root, *map(v.x, cs)),) * group.n)


def _scatter(group: Group, cs: range) -> Promise:
    return Promise(_at_root(group, cs), tuple(_own(group.root, v.x(r)) for r in group.ranks))


def _gathered(group: Group) -> dict[Value, frozenset[Term]]:
    return {value: frozenset({term(r, value)}) for r in group.ranks for value in (v.x(r),)}


def _gather(group: Group, cs: range) -> Promise:
    ends = tuple(_gathered(group) if r == group.root else {} for r in group.ranks)
    return Promise(_shards(group), ends)


def _all_gather(group: Group, cs: range) -> Promise:
    return Promise(_shards(group), (_gathered(group),) * group.n)


def _reduce(group: Group, cs: range) -> Promise:
    ends = tuple(_summed(group, *cs) if r == group.root else {} for r in group.ranks)
    return Promise(_whole(group, cs), ends)


def _reduce_scatter(group: Group, cs: range) -> Promise:
    return Promise(_whole(group, cs), tuple(_summed(group, r) for r in group.ranks))


def _all_reduce(group: Group, cs: range) -> Promise:
    return Promise(_whole(group, cs), (_summed(group, *cs),) * group.n)


def _all_to_all(group: Group, cs: range) -> Promise:
    holds = tuple(tuple(v.block(d, r) for d in group.ranks) for r in group.ranks)
    ends = [{v.block(r, s): frozenset({("block", s, r)}) for s in group.ranks} for r in group.ranks]
    return Promise(holds, tuple(ends))


def _barrier(group: Group, cs: range) -> Promise:
    heard = {v.here(s): frozenset({(v.HERE, s, s)}) for s in group.ranks}
    return Promise(tuple((v.here(r),) for r in group.ranks), (heard,) * group.n)


def _send_recv(group: Group, cs: range) -> Promise:
    left = [(r - 1) % group.n for r in group.ranks]
    ends = tuple({v.got(c, s): frozenset({term(s, v.x(c))}) for c in cs} for s in left)
    return Promise(_whole(group, cs), ends)


_PROMISES: dict[str, Callable[[Group, range], Promise]] = {
    "broadcast": _broadcast,
    "scatter": _scatter,
    "gather": _gather,
    "reduce": _reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_reduce": _all_reduce,
    "all_to_all": _all_to_all,
    "barrier": _barrier,
    "send_recv": _send_recv,
}

"""What halving, doubling and folding cost, among the p ranks that a power of two leaves to play."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from parallel_core.collectives.group import Group
from parallel_core.collectives.phases import Phase, one_size


def _extra(g: Group) -> int:
    return g.n - g.power_below


def _log(g: Group) -> int:
    return g.power_below.bit_length() - 1


def _place(g: Group, r: int) -> int | None:
    """Which of the p players a rank is; None for those who sit out."""
    pairs = _extra(g)
    if r >= 2 * pairs:
        return r - pairs
    return r // 2 if r % 2 else None


def _all_but_own(g: Group, b: Sequence[int], r: int) -> int:
    place = _place(g, r)
    return 0 if place is None else sum(b) - b[place]


def _own_blocks(g: Group, b: Sequence[int], r: int) -> int:
    """The blocks of 1, 2, 4, ... p/2 chunks that hold a player's own."""
    place = _place(g, r)
    if place is None:
        return 0
    starts = [(place >> k << k, 1 << k) for k in range(_log(g))]
    return sum(sum(b[start : start + size]) for start, size in starts)


def _log_times(g: Group, b: Sequence[int], r: int) -> int:
    return 0 if _place(g, r) is None else _log(g) * sum(b)


HALVE = Phase(
    sent=_all_but_own,
    received=_own_blocks,
    messages=lambda g: g.power_below * _log(g),
    steps=_log,
    path=lambda g: tuple((1, Fraction(1, 2 << k)) for k in range(_log(g))),
)
DOUBLE = HALVE.turned
SWAP_ALL = Phase(
    sent=_log_times,
    received=_log_times,
    messages=lambda g: g.power_below * _log(g),
    steps=_log,
    path=lambda g: one_size(_log(g), 1),
)
FOLD_IN = Phase(
    sent=lambda g, b, r: sum(b) if _place(g, r) is None else 0,
    received=lambda g, b, r: sum(b) if r < 2 * _extra(g) and r % 2 else 0,
    messages=_extra,
    steps=lambda g: int(_extra(g) > 0),
    path=lambda g: one_size(int(_extra(g) > 0), 1),
)
FOLD_OUT = FOLD_IN.turned

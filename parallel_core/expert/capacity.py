"""Capacity: an expert takes C = ceil(f k S / E) tokens of a sequence, and drops the rest.

S tokens, k choices each, E experts, capacity factor f. A buffer of C places an expert has one shape
whatever the router does: that is what it was made for, and what it costs: where a load is above C
choices are dropped, where it is below places travel empty. *Dynamic gating* sends counts first and
then just the rows there are: nothing dropped, nothing empty.

How many are dropped needs no simulation. If tokens choose independently, and expert e with
probability p_e (they sum to k), its load is Binomial(S, p_e): how choices hang together within a
token, and who comes first, changes which are dropped and not how many are expected,

    expected drops = sum_e E[(Binomial(S, p_e) - C)+],      over kS choices: the rate

and with many experts the binomial is a Poisson, for f = 1 about 0.4 / sqrt(tokens an expert).
Capacity: Lepikhin et al. 2020, arXiv:2006.16668; Fedus et al. 2021, arXiv:2101.03961, section 2.2.
Dynamic gating: Huang et al. 2023, arXiv:2303.06182.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

_NEGLIGIBLE = 1e-18


def places(seq: int, *, experts: int, top_k: int, factor: float) -> int:
    """C: choices of one sequence an expert takes at most; never more than it has tokens.

    >>> places(64, experts=8, top_k=2, factor=1.25)
    20
    """
    if min(seq, experts, top_k) < 1 or factor <= 0:
        raise ValueError(
            f"seq={seq}, experts={experts}, top_k={top_k} must be at least 1, and the capacity"
            f" factor {factor} above 0"
        )
    return min(math.ceil(factor * top_k * seq / experts), seq)


def dropped(loads: Iterable[int], room: int) -> int:
    """Choices that find no place, of experts with these loads.

    >>> dropped([40, 10, 10, 10, 10, 20, 20, 8], 20)
    20
    """
    return sum(max(load - room, 0) for load in loads)


def empty(loads: Iterable[int], room: int) -> int:
    """Places that travel empty: what dynamic gating saves.

    >>> empty([40, 10, 10, 10, 10, 20, 20, 8], 20)
    52
    """
    return sum(max(room - load, 0) for load in loads)


def padded(loads: Sequence[int], room: int) -> float:
    """Rows of fixed buffers over rows of dynamic gating, which sends every choice and no more."""
    whole = sum(loads)
    return len(loads) * room / whole if whole else math.inf


def even(experts: int, top_k: int) -> tuple[float, ...]:
    """Probabilities with which a token chooses each expert, all alike."""
    _check(experts, top_k)
    return (top_k / experts,) * experts


def skewed(experts: int, top_k: int, exponent: float) -> tuple[float, ...]:
    """The same, as 1, 2^-s, 3^-s, ... of Zipf's law; none above 1, and k together.

    What is above 1 for some goes to the others in proportion, so the law holds among those.

    >>> [round(p, 3) for p in skewed(4, 2, 1.0)]
    [0.96, 0.48, 0.32, 0.24]
    """
    _check(experts, top_k)
    weights = [(e + 1) ** -exponent for e in range(experts)]
    order = sorted(range(experts), key=lambda e: -weights[e])
    found, left, rest = [0.0] * experts, float(top_k), sum(weights)
    for e in order:  # largest first: once one is below 1, so are all after it
        found[e] = min(1.0, left * weights[e] / rest)
        left, rest = left - found[e], rest - weights[e]
    return tuple(found)


def drop_rate(picks: Sequence[float], seq: int, room: int) -> float:
    """The expected share of choices that a capacity router drops; exact for independent tokens.

    `picks[e]` is the probability that a token chooses expert e, `room` the places of each.

    >>> round(100 * drop_rate(even(8, 1), 64, 8), 2)
    13.05
    """
    return sum(_over_binomial(p, seq, room) for p in picks) / (sum(picks) * seq)


def drop_rate_poisson(tokens_an_expert: float, room: int) -> float:
    """The same for many experts, chosen alike: E[(Poisson(mu) - C)+] / mu."""
    mu = tokens_an_expert
    first = room + 1
    term = math.exp(first * math.log(mu) - mu - math.lgamma(first + 1))
    total, n = 0.0, first
    while term > _NEGLIGIBLE or n < mu:
        total += (n - room) * term
        n += 1
        term *= mu / n
    return total / mu


def _check(experts: int, top_k: int) -> None:
    if not 1 <= top_k <= experts:
        raise ValueError(f"top_k={top_k} must be between 1 and experts={experts}")


def _over_binomial(p: float, seq: int, room: int) -> float:
    """E[(X - room)+] for X ~ Binomial(seq, p): the tail, summed where it is."""
    if p <= 0 or room >= seq:
        return 0.0
    if p >= 1:
        return float(seq - room)
    n = room + 1
    log_term = math.lgamma(seq + 1) - math.lgamma(n + 1) - math.lgamma(seq - n + 1)
    term = math.exp(log_term + n * math.log(p) + (seq - n) * math.log1p(-p))
    total, odds = 0.0, p / (1 - p)
    while n <= seq and (term > _NEGLIGIBLE or n < p * seq):
        total += (n - room) * term
        term *= odds * (seq - n) / (n + 1)
        n += 1
    return total

"""Copies of hot experts, dealt out so that no rank has much more to do than another.

    loads 90 30 20 20, two ranks of three slots      copies 2 2 1 1, a copy's share 45 15 20 20
    rank 0: 0 1 2      rank 1: 0 1 3                 80 on each, where static has 120 and 40

Spare slots go, one after the other, to the expert whose copies have most to do. The copies, largest
share first, are then dealt out in rounds of one for each rank, the largest of a round to the rank
with least so far; at last experts are exchanged between the fullest rank and another for as long as
that helps.

Two bounds hold whatever the loads are. Rank loads after rounds differ by no more than the largest
share less the smallest, since each round's largest is no more than the last one's smallest; so
the fullest is within that of the mean. And the largest share is no more than the total over
N - E + 1 (N slots, E experts), or the mean of a rank where an expert has a copy on every rank.
DeepSeek-AI 2024, arXiv:2412.19437, section 3.4; github.com/deepseek-ai/EPLB packs likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

from parallel_core.expert.placement import Loads, Placement, rank_loads, static

_HELPS = 1 - 1e-9  # an exchange that gains less is noise of the arithmetic


def copies_of(loads: Loads, ranks: int, slots_a_rank: int) -> tuple[int, ...]:
    """How often each expert lies somewhere: all slots used, the hottest share halved first.

    No greatest share could be smaller. ValueError if the slots hold too few or too many experts.

    >>> copies_of([90, 30, 20, 20], 2, 3)
    (2, 2, 1, 1)
    """
    _check(loads, ranks, slots_a_rank)
    copies = [1] * len(loads)
    for _ in range(ranks * slots_a_rank - len(loads)):
        able = (e for e in range(len(loads)) if copies[e] < ranks)
        copies[max(able, key=lambda e: loads[e] / copies[e])] += 1
    return tuple(copies)


def replicating(loads: Loads, ranks: int, slots_a_rank: int) -> Placement:
    """Hot experts on several ranks, every slot used, for loads as these.

    Never worse than static: where few experts cannot be dealt out any better, static stays, and
    its spare slots stay empty.

    >>> rank_loads(replicating([90, 30, 20, 20], 2, 3), [90, 30, 20, 20])
    (80.0, 80.0)
    """
    copies = copies_of(loads, ranks, slots_a_rank)
    shares = [load / c for load, c in zip(loads, copies, strict=True)]
    every = [expert for expert, c in enumerate(copies) for _ in range(c)]
    found = Placement(_exchanged(_dealt(every, shares, ranks), shares))
    if len(loads) % ranks == 0:
        plain = static(len(loads), ranks)
        if max(rank_loads(plain, loads)) < max(rank_loads(found, loads)) * _HELPS:
            return plain
    return found


def hierarchical(
    loads: Loads, ranks: int, slots_a_rank: int, *, groups: int, nodes: int
) -> Placement:
    """The same in two levels: groups of neighbouring experts go to nodes, then each node copies its
    own. A group that a node-limited router reaches stays within one node.

    ValueError where groups do not divide the experts, or nodes the groups and the ranks.
    """
    if len(loads) % groups or groups % nodes or ranks % nodes:
        raise ValueError(
            f"groups={groups} must divide the {len(loads)} experts, and nodes={nodes} must divide"
            f" the groups and the {ranks} ranks"
        )
    each = len(loads) // groups
    weights = [float(sum(loads[g * each : (g + 1) * each])) for g in range(groups)]
    slots: list[tuple[int, ...]] = []
    for mine in _exchanged(_dealt(list(range(groups)), weights, nodes), weights):
        experts = [e for g in sorted(mine) for e in range(g * each, (g + 1) * each)]
        here = replicating([loads[e] for e in experts], ranks // nodes, slots_a_rank)
        slots += [tuple(experts[e] for e in row) for row in here.slots]
    return Placement(tuple(slots))


def fullest_at_most(loads: Loads, ranks: int, slots_a_rank: int) -> float:
    """What no rank of `replicating` exceeds: the mean, and the spread of the shares."""
    copies = copies_of(loads, ranks, slots_a_rank)
    shares = [load / c for load, c in zip(loads, copies, strict=True)]
    return sum(loads) / ranks + max(shares) - min(shares)


def _check(loads: Loads, ranks: int, slots_a_rank: int) -> None:
    if not loads or min(loads) < 0:
        raise ValueError(f"loads {list(loads)} must be there, and none negative")
    if ranks * slots_a_rank < len(loads):
        raise ValueError(
            f"{ranks} ranks of {slots_a_rank} slots hold no {len(loads)} experts; give each rank"
            f" {-(-len(loads) // ranks)}"
        )
    if slots_a_rank > len(loads):
        raise ValueError(
            f"slots_a_rank={slots_a_rank} is more than the {len(loads)} experts, and a rank"
            " has none of them twice"
        )


def _dealt(copies: Sequence[int], shares: Sequence[float], ranks: int) -> list[list[int]]:
    """Rounds of one copy for each rank, largest share first, the largest to the emptiest rank.

    Copies of one expert follow each other, so they lie in one round or two; in the second they come
    first, and ranks enough are without one: no expert has more copies than there are ranks.
    """
    order = sorted(copies, key=lambda e: (-shares[e], e))
    slots: list[list[int]] = [[] for _ in range(ranks)]
    filled = [0.0] * ranks
    for start in range(0, len(order), ranks):
        free = set(range(ranks))
        for expert in order[start : start + ranks]:
            able = (r for r in free if expert not in slots[r])
            rank = min(able, key=lambda r: (filled[r], r))
            free.remove(rank)
            slots[rank].append(expert)
            filled[rank] += shares[expert]
    return slots


def _exchanged(slots: list[list[int]], shares: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """The same, with experts of the fullest rank exchanged for lighter ones while it gains."""
    while swap := _best_swap(slots, shares):
        rank, mine, other, theirs = swap
        slots[rank][slots[rank].index(mine)] = theirs
        slots[other][slots[other].index(theirs)] = mine
    return tuple(tuple(sorted(row)) for row in slots)


def _best_swap(
    slots: Sequence[Sequence[int]], shares: Sequence[float]
) -> tuple[int, int, int, int] | None:
    """(fullest rank, its expert, other rank, its expert) that leave the fuller of both emptiest."""
    filled = [sum(shares[e] for e in row) for row in slots]
    top = max(range(len(slots)), key=lambda r: filled[r])
    best, found = filled[top] * _HELPS, None
    for other, row in enumerate(slots):
        for mine in slots[top]:
            for theirs in row:
                less = shares[mine] - shares[theirs]
                fuller = max(filled[top] - less, filled[other] + less)
                if fuller < best and mine not in row and theirs not in slots[top]:
                    best, found = fuller, (top, mine, other, theirs)
    return found

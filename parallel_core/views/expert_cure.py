"""What other placements would make of the loads that a run has measured.

    static        neighbours together, as the run had them
    replicated    hot experts copied into spare slots, all dealt out anew (replication.py)
    grouped       experts that tokens chose together on one rank (grouping.py)

A placement is chosen from the loads of one step and judged by those of a later one: what a balancer
sees is always the past. No weight is moved here: the loads are measured, what follows is reckoned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallel_core.expert.grouping import grouped, together
from parallel_core.expert.placement import (
    IntArray,
    Placement,
    imbalance,
    rank_loads,
    ranks_visited,
    static,
)
from parallel_core.expert.replication import replicating


@dataclass(frozen=True, kw_only=True)
class Cure:
    """One placement: on the loads it was chosen from, and on later ones; and how many ranks a
    token visits, None where tokens do not have k choices each."""

    name: str
    placement: Placement
    then: tuple[float, ...]
    later: tuple[float, ...]
    visits: float | None

    @property
    def gain(self) -> float:
        """The later loads' imbalance."""
        return imbalance(self.later)


def cures(
    then: Sequence[int], later: Sequence[int], ranks: int, spare: int, routing: IntArray
) -> list[Cure]:
    """Every placement: `spare` more slots a rank for copies; `routing` are experts [tokens, k]."""
    each = len(then) // ranks
    places = {"static": static(len(then), ranks)}
    places["dealt out anew"] = replicating(then, ranks, each)
    if spare:
        places[f"replicated, {spare} spare"] = replicating(then, ranks, each + spare)
    if routing.size and routing.shape[1] > 1:
        places["grouped"] = grouped(together(routing, len(then)), ranks)
    return [
        Cure(
            name=name,
            placement=found,
            then=rank_loads(found, then),
            later=rank_loads(found, later),
            visits=ranks_visited(found, routing) if routing.size else None,
        )
        for name, found in places.items()
    ]


def table(found: Sequence[Cure]) -> list[dict[str, str]]:
    """The placements in print."""
    return [
        {
            "placement": cure.name,
            "rows of each rank, later": ", ".join(f"{load:,.0f}" for load in cure.later),
            "fullest / mean, then": f"{imbalance(cure.then):.2f}",
            "fullest / mean, later": f"{cure.gain:.2f}",
            "ranks a token visits": "" if cure.visits is None else f"{cure.visits:.2f}",
        }
        for cure in found
    ]


def slots_table(found: Sequence[Cure]) -> list[dict[str, str]]:
    """Which experts each rank would hold; a copied one stands on several."""
    return [
        {
            "rank": str(rank),
            **{
                cure.name: ", ".join(map(str, sorted(cure.placement.slots[rank]))) for cure in found
            },
        }
        for rank in range(found[0].placement.ranks)
    ]


def in_words(found: Sequence[Cure]) -> str:
    """The best of them against static."""
    plain, best = found[0], min(found, key=lambda cure: cure.gain)
    if best.gain >= plain.gain:
        return (
            f"No placement beats the one there is: the fullest rank has {plain.gain:.2f} times "
            "the mean. One expert alone may be more than a rank's share; only a copy splits it."
        )
    return (
        f"**{best.name[:1].upper()}{best.name[1:]}**, the fullest rank would have "
        f"{best.gain:.2f} times the mean instead of {plain.gain:.2f}."
    )

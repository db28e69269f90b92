"""What the figures of experts read from a routing record: tokens one by one, and loads.

record.rows ── tokens     the first of each rank, and which experts took them
            └─ Loads      rows of every expert: those that went, those that found no place
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parallel_core.expert import capacity
from parallel_core.expert.placement import IntArray, imbalance
from parallel_core.plan import Plan, RouterKind
from parallel_core.routing_record import RoutingRecord


@dataclass(frozen=True)
class Token:
    """A token: its rank's number, that rank's place in its group of ep ranks, its place in the
    rank's first sequence; and its experts, with whether each took it."""

    rank: int
    home: int
    position: int
    choices: tuple[tuple[int, bool], ...]


@dataclass(frozen=True, kw_only=True)
class Loads:
    """A step of one layer: rows that asked for each expert and rows that went, all ranks together.

    `room` is how many rows an expert takes of all sequences at most; None where it takes all.
    """

    asked: tuple[int, ...]
    kept: tuple[int, ...]
    ranks: int
    room: int | None

    @property
    def each(self) -> int:
        """Experts of a rank."""
        return len(self.kept) // self.ranks

    @property
    def dropped(self) -> int:
        """Choices that no expert took."""
        return sum(self.asked) - sum(self.kept)

    def by_rank(self, counts: Sequence[int]) -> list[int]:
        """Counts of experts, added up by the rank that holds them."""
        return [sum(counts[r * self.each : (r + 1) * self.each]) for r in range(self.ranks)]

    @property
    def rank_loads(self) -> list[int]:
        """Rows that the experts of each rank compute."""
        return self.by_rank(self.kept)

    @property
    def fullest(self) -> int:
        """The rank with most of them."""
        return max(range(self.ranks), key=self.rank_loads.__getitem__)

    @property
    def imbalance(self) -> float:
        """The fullest rank over the mean."""
        return imbalance(self.rank_loads)


def loads(record: RoutingRecord, *, step: int, layer: int) -> Loads:
    """Rows of a step and layer."""
    plan = record.plan
    return Loads(
        asked=tuple(record.loads(step=step, layer=layer, kept=False)),
        kept=tuple(record.loads(step=step, layer=layer)),
        ranks=plan.ep,
        room=room(plan),
    )


def room(plan: Plan) -> int | None:
    """Rows that an expert takes in a step at most; None where it takes all."""
    m = plan.model
    if m.router == RouterKind.DROPLESS:
        return None
    places = capacity.places(plan.seq, experts=m.experts, top_k=m.top_k, factor=m.capacity)
    return places * plan.global_batch


def tokens(record: RoutingRecord, *, step: int, layer: int) -> list[Token]:
    """The tokens that are told one by one, of the ranks of one ep group, in order."""
    plan, found = record.plan, []
    rows = [r for r in record.rows if (r.step, r.layer) == (step, layer) and r.tokens]
    rows = sorted(rows, key=lambda row: row.rank)
    group = plan.mesh.group(rows[0].rank, "ep") if rows else ()
    for row in rows:
        if row.rank not in group:
            continue
        home = plan.mesh.coordinate(row.rank)["ep"]
        wants: dict[int, list[tuple[int, bool]]] = {}
        for position, expert, went in row.tokens:
            wants.setdefault(position, []).append((expert, bool(went)))
        if plan.model.router == RouterKind.EXPERT_CHOICE:  # nobody's token is in it all the same
            last = max(wants)
            wants = {s: wants.get(s, []) for s in range(last + 1)}
        found += [Token(row.rank, home, s, tuple(each)) for s, each in wants.items()]
    return found


def routing_of(found: Sequence[Token], top_k: int) -> tuple[IntArray, IntArray]:
    """Those tokens that have k choices: experts [T, k], and the rank each is on [T]."""
    whole = [token for token in found if len(token.choices) == top_k]
    chosen = np.array([[e for e, _ in token.choices] for token in whole], dtype=np.int64)
    return chosen.reshape(-1, top_k), np.array([token.home for token in whole], dtype=np.int64)


def received(record: RoutingRecord, *, step: int) -> list[int]:
    """Rows that each rank of the world computed in a step, all its layers and microbatches."""
    plan = record.plan
    total = [0] * plan.world_size
    for row in record.rows:
        if row.step != step:
            continue
        for place, rank in enumerate(plan.mesh.group(row.rank, "ep")):
            total[rank] += sum(row.kept[plan.experts_of(place)])
    return total

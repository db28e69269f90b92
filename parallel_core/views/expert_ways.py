"""Copies of a token that each way of dispatching sends: exact for even routing, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from parallel_core.expert.placement import IntArray, static
from parallel_core.expert.traffic import DISPATCHES, Copies, Spread, counted
from parallel_core.plan import Plan
from parallel_core.routing_record import RoutingRecord


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way: copies of a token if routing were even, and those of the tokens at hand."""

    name: str
    even: Copies
    found: Copies | None


def node_sizes(ranks: int) -> list[int]:
    """Ranks a node may have."""
    return [n for n in range(1, ranks + 1) if ranks % n == 0]


def ways(plan: Plan, node: int, routing: IntArray, home: IntArray) -> list[Way]:
    """Every way between the plan's ep ranks, `node` of them a node."""
    m = plan.model
    spread = Spread(experts=m.experts, top_k=m.top_k, ranks=plan.ep, node=node)
    found: Mapping[str, Copies] = {}
    if routing.size:
        found = counted(static(m.experts, plan.ep), routing, home, node)
    return [
        Way(name=name, even=how(spread), found=found.get(name)) for name, how in DISPATCHES.items()
    ]


def table(found: Sequence[Way]) -> list[dict[str, str]]:
    """Copies a token, those inside a node and those across nodes."""
    return [
        {
            "dispatch": way.name,
            "even routing: inside nodes": _number(way.even.inside),
            "across": _number(way.even.across),
            "these tokens: inside": "" if way.found is None else _number(way.found.inside),
            "these: across": "" if way.found is None else _number(way.found.across),
        }
        for way in found
    ]


def _number(copies: Fraction) -> str:
    return f"{float(copies):.3g}"


def handed(
    record: RoutingRecord, counted_bytes: Sequence[int] | None
) -> list[tuple[int, int | None]]:
    """(predicted from the routing, counted) bytes that each rank handed to dispatches and combines;
    what is counted has the counts of rows in it, which travel ahead, and is told without them."""
    predicted = [sum(axes) for axes in zip(*record.sent().values(), strict=True)]
    if counted_bytes is None:
        return [(each, None) for each in predicted]
    ahead = _counts_bytes(record)
    pairs = zip(predicted, counted_bytes, ahead, strict=True)
    return [(want, got - counts) for want, got, counts in pairs]


def _counts_bytes(record: RoutingRecord) -> list[int]:
    """Bytes of the messages that say how many rows will come: int64 an expert, once a hop."""
    total, hops = [0] * record.plan.world_size, len(record.sent())
    for row in record.rows:
        total[row.rank] += 8 * record.plan.model.experts * hops
    return total

"""What a run says of its routing: counted by hand from a few told rows."""

from __future__ import annotations

from parallel_core.plan import Plan
from parallel_core.routing_record import RoutingRecord


def test_a_report_is_of_the_worst_layer_and_counts_each_token_once():
    """Two tp ranks tell the same: the first speaks. Loads by expert and ep rank, drops, lean."""
    plan = Plan.of(dp=2, tp=2, ep=2, experts=4, layers=2, top_k=1, router="capacity")
    record = RoutingRecord(plan)
    told = {0: ((6, 2, 0, 0), (4, 2, 0, 0)), 1: ((2, 2, 2, 2), (2, 2, 2, 2))}
    for rank in range(4):
        rows = [
            {"step": 0, "mb": 0, "layer": layer, "asked": asked, "kept": kept, "tokens": []}
            for layer, (asked, kept) in told.items()
        ]
        record.feed(rank, rows)
    (step,) = record.report()["steps"]
    assert step["loads"] == [[8, 4, 0, 0], [4, 4, 4, 4]]
    assert step["rank_loads"] == [[12, 0], [8, 8]]
    assert (step["imbalance"], step["rank_imbalance"]) == (8 * 4 / 12, 2.0)
    assert (step["dropped"], step["asked"]) == (4, 32)

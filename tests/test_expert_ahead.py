"""What may wait and what may go early, of a record: a rank's own experts, bounds, tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.expert.buffering import ExpertBytes
from parallel_core.plan import Plan
from parallel_core.routing_record import Routed, RoutingRecord
from parallel_core.views import expert_ahead
from parallel_core.views.expert_expected import expected

SMALL = {"dp": 4, "ep": 4, "experts": 8, "layers": 2, "hidden": 64, "seq": 32, "global_batch": 8}
WEIGHS = ExpertBytes.adam(10)
used_loads = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, 3, (4, 3, 5)) % 2 * 7
)


def steps_of(plan, *, steps, layers, seed=0):
    """A record in which every rank's four tokens choose two experts by lot."""
    rng, record = np.random.default_rng(seed), RoutingRecord(plan)
    experts, k = plan.model.experts, plan.model.top_k
    for step in range(steps):
        for layer in range(layers):
            for rank in range(plan.world_size):
                chosen = rng.random((4, experts)).argsort(-1)[:, :k]
                counts = tuple(np.bincount(chosen.reshape(-1), minlength=experts).tolist())
                told = tuple((s, int(e), 1) for s in range(4) for e in sorted(chosen[s]))
                row = Routed(rank=rank, step=step, mb=0, layer=layer, asked=counts, kept=counts,
                             tokens=told)  # fmt: skip
                record.rows.append(row)
    return record


@given(used_loads, st.integers(1, 16))
@settings(max_examples=60, deadline=None)
def test_in_training_nothing_beats_lru_and_in_a_circle_much_does(loads, size):
    """A way back mirrors the way there: as many hits a step as there is room for, of both."""
    (found,) = expert_ahead.held(loads, [size], WEIGHS)
    each = (loads > 0).sum((1, 2))
    assert found.touches == 2 * each.sum()
    assert found.lru == found.best == np.minimum(each, size).sum()
    assert found.fetched == found.fetched_best
    assert found.fetched == (found.touches - found.lru) * WEIGHS.weights / len(loads)
    assert found.returned == each.sum() * WEIGHS.gradient / len(loads)
    assert found.once_lru <= found.once_best <= found.touches // 2


def test_a_circle_defeats_lru():
    """All experts in turn, forward only: no hit by LRU; Belady one fewer a round than its room, or
    more."""
    (found,) = expert_ahead.held(np.ones((3, 2, 4), dtype=np.int64), [4], WEIGHS)
    assert found.once_lru == 0 and found.once_best >= 2 * (4 - 1)


@pytest.mark.parametrize("layout", [{}, {"dp": 8}, {"tp": 2}, {"dp": 2, "ep": 2, "pp": 2}])
def test_a_rank_keeps_its_own_experts(layout):
    """Added up over the ranks, every row of the step is some rank's, once."""
    plan = Plan.of(**SMALL | layout)
    record = expected(plan)
    parts = [expert_ahead.used(record, rank) for rank in range(plan.world_size)]
    assert all(part.shape[2] == plan.experts_here for part in parts)
    assert sum(part.sum() for part in parts) == sum(sum(row.kept) for row in record.rows)


def test_an_expert_weighs_what_its_three_matrices_hold():
    """Of one layer, one expert; a slice of it under tensor parallelism."""
    plan = Plan.of(**SMALL, ffn=96)
    whole = expert_ahead.weighs(plan)
    assert whole == ExpertBytes.adam(3 * 64 * 96)
    assert expert_ahead.weighs(plan.but(tp=2)).weights * 2 == whole.weights


def test_every_guess_wants_the_same_copies():
    """Hits and late ones together are what the router asked for, whoever guessed; bytes follow."""
    plan = Plan.of(**SMALL, top_k=2)
    found = expert_ahead.early(steps_of(plan, steps=4, layers=2))
    assert list(found) == ["popular", "repeated", "following"]
    assert len({got.wanted for got in found.values()}) == 1
    assert all(got.bytes_a_copy == 64 * 4 for got in found.values())
    assert all(0 < got.hit_rate < 1 for got in found.values())
    assert len(expert_ahead.early_table(found)) == 3


def test_a_router_that_repeats_itself_is_guessed_and_wastes_nothing():
    """The second step chooses as the first: `repeated` is always right."""
    plan = Plan.of(**SMALL, top_k=2)
    record = steps_of(plan, steps=1, layers=2)
    again = [Routed(**{**vars(row), "step": 1}) for row in record.rows]
    record.rows += again
    got = expert_ahead.early(record)["repeated"]
    assert (got.hit_rate, got.wasted_bytes) == (1.0, 0)


def test_where_there_is_nothing_to_guess_from_there_is_no_table():
    """One step, or experts that choose."""
    plan = Plan.of(**SMALL, top_k=2)
    assert expert_ahead.early(steps_of(plan, steps=1, layers=2)) == {}
    chosen = plan.but(router="expert-choice")
    assert expert_ahead.early(steps_of(chosen, steps=3, layers=2)) == {}
    assert list(expert_ahead.early(steps_of(plan, steps=3, layers=1))) == ["popular", "repeated"]


def test_a_quarter_a_half_and_all_are_tried():
    """And at least room for one."""
    assert expert_ahead.sizes_of(np.zeros((1, 3, 4))) == [3, 6, 12]
    assert expert_ahead.sizes_of(np.zeros((1, 1, 1))) == [1]
    loads = np.ones((2, 3, 4), dtype=np.int64)
    assert len(expert_ahead.held_table(expert_ahead.held(loads, [3, 6, 12], WEIGHS))) == 3

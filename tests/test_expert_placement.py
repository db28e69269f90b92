"""Claims about who holds which expert: complete, never twice on a rank, balanced within bounds."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.expert.grouping import grouped, together, within
from parallel_core.expert.placement import (
    Placement,
    destinations,
    imbalance,
    loads_of,
    rank_loads,
    ranks_visited,
    reached,
    static,
)
from parallel_core.expert.replication import (
    copies_of,
    fullest_at_most,
    hierarchical,
    replicating,
)

NEAR = 1 + 1e-9


@st.composite
def machines(draw, most=12):
    """(loads, ranks, slots a rank) that hold each expert at least once."""
    loads = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=most))
    ranks = draw(st.integers(1, 6))
    fewest = -(-len(loads) // ranks)
    return loads, ranks, draw(st.integers(fewest, len(loads)))


def test_sixteen_experts_on_four_ranks():
    """Expert 5 lives on the second rank."""
    placement = static(16, 4)
    assert placement.holders[5] == (1,)
    assert placement.slots[3] == (12, 13, 14, 15)
    with pytest.raises(ValueError, match="experts=16 must be a multiple of ep=3"):
        static(16, 3)


def test_a_placement_is_refused_that_leaves_an_expert_out_or_has_it_twice():
    """Two sentences that name the rank or the expert."""
    with pytest.raises(ValueError, match="rank 1 has an expert twice"):
        Placement(((0,), (1, 1)))
    with pytest.raises(ValueError, match="no rank holds expert 1"):
        Placement(((0,), (2,)))


def test_the_lessons_imbalance():
    """The fullest of these ranks has 2.5 times the mean."""
    assert imbalance([40, 10, 10, 10, 10, 20, 20, 8]) == 2.5
    assert imbalance([0, 0]) == imbalance([3, 3]) == 1


@given(machines())
def test_copies_of_hot_experts(machine):
    """Every expert somewhere, never twice on a rank, and all load given out."""
    loads, ranks, slots = machine
    found = replicating(loads, ranks, slots)
    assert found.experts == len(loads) and found.ranks == ranks
    assert sum(rank_loads(found, loads)) == pytest.approx(sum(loads))
    full = [len(row) == slots for row in found.slots]
    assert all(full) or found == static(len(loads), ranks)


@given(machines())
def test_no_rank_is_fuller_than_proved_or_than_without_copies(machine):
    """Mean plus the spread of the shares bounds it, and static does."""
    loads, ranks, slots = machine
    fullest = max(rank_loads(replicating(loads, ranks, slots), loads))
    assert sum(loads) / ranks <= fullest * NEAR
    if len(loads) % ranks == 0:
        assert fullest <= max(rank_loads(static(len(loads), ranks), loads)) * NEAR
    if all(len(row) == slots for row in replicating(loads, ranks, slots).slots):
        assert fullest <= fullest_at_most(loads, ranks, slots) * NEAR
    share = max(load / c for load, c in zip(loads, copies_of(loads, ranks, slots), strict=True))
    spare = ranks * slots - len(loads)
    assert share <= max(sum(loads) / (spare + 1), sum(loads) / ranks) * NEAR


@given(machines(most=5))
@settings(max_examples=60)
def test_no_other_numbers_of_copies_leave_a_smaller_share(machine):
    """Every way to hand out the spare slots, tried."""
    loads, ranks, slots = machine
    ours = copies_of(loads, ranks, slots)
    assert sum(ours) == ranks * slots and max(ours) <= ranks

    def share(copies):
        return max(load / c for load, c in zip(loads, copies, strict=True))

    every = product(range(1, ranks + 1), repeat=len(loads))
    least = min(share(copies) for copies in every if sum(copies) == ranks * slots)
    assert share(ours) == least


def test_copies_cure_a_flooded_rank():
    """One hot expert of 16: static waits 3.4 times the mean, one spare slot a rank cures it."""
    loads = [10] * 16
    loads[5] = 300
    assert imbalance(rank_loads(static(16, 4), loads)) == pytest.approx(330 * 4 / 450)
    assert imbalance(rank_loads(replicating(loads, 4, 5), loads)) < 1.05


@pytest.mark.parametrize(("skew", "waits"), [(0.3, 1.30), (0.7, 2.8), (1.0, 5.5)])
def test_one_spare_slot_a_rank_evens_out_deepseeks_shape(skew, waits):
    """256 experts on 32 ranks: static waits for up to 5.5 times the mean, nine slots for 0.1 %."""
    order = np.random.default_rng(0).permutation(256)
    loads = (1000 / (1 + order) ** skew).tolist()
    assert imbalance(rank_loads(static(256, 32), loads)) > waits * 0.7
    assert imbalance(rank_loads(replicating(loads, 32, 9), loads)) < 1.001


def test_spare_slots_stay_empty_where_they_would_only_hurt():
    """Four experts in three slots of two ranks: any two copies leave 11 on a rank, static 10."""
    loads = [10, 0, 6, 3.9]
    assert replicating(loads, 2, 3) == static(4, 2)
    others = [  # doubled: the two that are not single; the singles, one on each rank
        max(9.95 + (loads[a] - loads[b]) / 2, 9.95 - (loads[a] - loads[b]) / 2)
        for a, b in combinations(range(4), 2)
    ]
    assert min(others) == pytest.approx(11.0)


@pytest.mark.parametrize(
    ("ranks", "slots", "sentence"),
    [(2, 1, "hold no 4 experts; give each rank 2"), (2, 5, "more than the 4 experts")],
)
def test_slots_that_cannot_hold_the_experts(ranks, slots, sentence):
    """Too few and too many are told with the number that works."""
    with pytest.raises(ValueError, match=sentence):
        replicating([1, 2, 3, 4], ranks, slots)


@given(st.lists(st.integers(0, 99), min_size=16, max_size=16), st.sampled_from([2, 4]))
def test_a_group_stays_on_one_node(loads, groups):
    """In two levels: all copies of a group's experts lie within a node; each node holds as many."""
    found = hierarchical(loads, 4, 5, groups=groups, nodes=2)
    assert found.experts == 16
    homes = [{rank // 2 for rank in holders} for holders in found.holders]
    for group in range(groups):
        each = 16 // groups
        assert len(set.union(*homes[group * each : (group + 1) * each])) == 1
    assert [sum(home == {node} for home in homes) for node in range(2)] == [8, 8]
    with pytest.raises(ValueError, match="groups=3 must divide the 16 experts"):
        hierarchical(loads, 4, 5, groups=3, nodes=2)


@given(machines(), st.randoms(use_true_random=False))
def test_a_choice_goes_to_a_rank_that_holds_the_expert(machine, rng):
    """And as many to each copy: loads counted from destinations are rank_loads, in the long run."""
    loads, ranks, slots = machine
    placement = replicating(loads, ranks, slots)
    tokens = 60  # divides by every number of copies there can be
    routing = np.full((tokens, 1), rng.randrange(placement.experts))
    to = destinations(placement, routing)
    assert set(to.ravel()) == set(placement.holders[int(routing[0, 0])])
    counts = np.bincount(to.ravel(), minlength=ranks)
    ours = rank_loads(placement, loads_of(routing, placement.experts).tolist())
    assert counts.tolist() == pytest.approx(list(ours))


def random_routing(rng, tokens, experts, k):
    return np.argsort(rng.random((tokens, experts)), axis=1)[:, :k]


@given(st.integers(0, 2**32 - 1), st.sampled_from([(8, 2), (8, 4), (12, 3), (6, 6)]))
@settings(max_examples=40)
def test_grouping_is_never_worse_than_static(seed, shape):
    """By pairs together always; by ranks visited for two choices, where it is the same."""
    experts, ranks = shape
    routing = random_routing(np.random.default_rng(seed), 200, experts, 2)
    pairs = together(routing, experts)
    ours, plain = grouped(pairs, ranks), static(experts, ranks)
    assert sorted(len(row) for row in ours.slots) == [experts // ranks] * ranks
    assert within(ours, pairs) >= within(plain, pairs)
    for placement in (ours, plain):
        assert ranks_visited(placement, routing) == pytest.approx(
            2 - within(placement, pairs) / 200
        )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_grouping_finds_the_best_of_six_experts_on_two_ranks(seed):
    """All ten ways to part them, tried."""
    routing = random_routing(np.random.default_rng(seed), 100, 6, 2)
    pairs = together(routing, 6)
    every = [
        within(Placement((half, tuple(set(range(6)) - set(half)))), pairs)
        for half in combinations(range(6), 3)
    ]
    # one exchange of two reaches all nine other ways, so where none gains is the best of all
    assert within(grouped(pairs, 2), pairs) == max(every)


@given(st.permutations(range(16)), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_experts_that_fire_together_end_on_one_rank(order, seed):
    """Four hidden teams of four, a token's three experts from one: found, one rank a token."""
    rng = np.random.default_rng(seed)
    teams = np.array(order).reshape(4, 4)
    routing = np.stack([rng.permutation(teams[t % 4])[:3] for t in range(400)])
    found = grouped(together(routing, 16), 4)
    assert {frozenset(row) for row in found.slots} == {frozenset(team) for team in teams.tolist()}
    assert ranks_visited(found, routing) == 1


@pytest.mark.parametrize("seed", range(4))
def test_eight_hidden_teams_of_eight_are_found(seed):
    """Two experts a token: here exchanges from static alone can end short, grown groups do not."""
    rng = np.random.default_rng(seed)
    teams = rng.permutation(64).reshape(8, 8)
    routing = np.stack([rng.permutation(teams[t % 8])[:2] for t in range(600)])
    assert ranks_visited(grouped(together(routing, 64), 8), routing) == 1


def test_what_fires_together_is_hot_together():
    """The two aims pull apart: the grouping that saves copies floods a rank."""
    rng = np.random.default_rng(0)
    hot = np.array([0, 4, 8, 12])
    routing = np.stack(
        [rng.permutation(hot if t % 2 else rng.permutation(16)[:4])[:2] for t in range(800)]
    )
    loads = loads_of(routing, 16).tolist()
    ours, plain = grouped(together(routing, 16), 4), static(16, 4)
    assert ranks_visited(ours, routing) < ranks_visited(plain, routing) - 0.3
    assert imbalance(rank_loads(ours, loads)) > 2 > imbalance(rank_loads(plain, loads))


@given(machines(), st.integers(1, 4), st.integers(0, 99))
def test_ranks_reached_are_the_destinations(machine, k, seed):
    """As a set: a token's choices on one rank are one copy."""
    loads, ranks, slots = machine
    placement = replicating(loads, ranks, slots)
    k = min(k, placement.experts)
    routing = random_routing(np.random.default_rng(seed), 20, placement.experts, k)
    to, there = destinations(placement, routing), reached(placement, routing)
    for token in range(20):
        assert set(np.flatnonzero(there[token])) == set(to[token])

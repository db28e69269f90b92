"""A parameter server's gradients: who is how stale, whatever the speeds; no rank runs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.data import parameter_server as ps
from parallel_core.data.parameter_server import (
    Desk,
    Update,
    expected_total,
    order_of,
    staleness,
)

some_speeds = st.lists(st.floats(0.1, 10), min_size=1, max_size=6)


@given(some_speeds, st.integers(0, 80), st.floats(0, 1))
def test_the_staleness_of_a_run_adds_up_to_the_same_whatever_the_speeds(speeds, count, service):
    """U (W - 1) less what the last W updates lack: in the mean W - 1, and less at the end alone."""
    updates = order_of(speeds, count, service=service)
    assert len(updates) == count
    assert sum(u.staleness for u in updates) == expected_total(len(speeds), count)


@given(st.integers(1, 5), st.integers(1, 40), st.data())
def test_nor_does_the_order_change_it(workers, count, data):
    """Whoever is at work may be next."""
    desk, total = Desk(workers, count), 0
    desk.hand_out()
    at_work = list(range(min(workers, count)))
    for _ in range(count):
        worker = data.draw(st.sampled_from(at_work))
        at_work.remove(worker)
        total += desk.apply(worker).staleness
        at_work += desk.hand_out()
    assert total == expected_total(workers, count)


@given(st.lists(st.floats(0.5, 4), min_size=2, max_size=5), st.floats(0, 0.2))
def test_the_settled_mean_is_one_less_than_the_workers(speeds, service):
    """But for what is cut off at either end: no more than the gradients at work there."""
    updates = order_of(speeds, 200, service=service)
    found = staleness(updates, len(speeds))
    first, end = found.settled
    cut = sum(max(u.staleness for u in updates if u.worker == w) for w in range(len(speeds)))
    assert abs(found.mean - (len(speeds) - 1)) * (end - first) <= cut


def test_one_straggler_moves_the_staleness_and_leaves_its_mean():
    """W = 4, one worker three times slower: its gradients are 9 versions old, the others' 2.3."""
    found = staleness(order_of((1, 1, 1, 3), 104), 4)
    assert found.settled == (10, 100)
    assert found.mean == 3
    assert found.by_worker == pytest.approx((7 / 3, 7 / 3, 7 / 3, 9))
    assert found.histogram == {2: (18, 18, 18, 0), 3: (9, 9, 9, 0), 9: (0, 0, 0, 9)}


def test_equal_workers_are_equally_old():
    found = staleness(order_of((1,) * 5, 50), 5)
    assert found.by_worker == (4,) * 5 and found.histogram == {4: (8,) * 5}


@given(some_speeds, st.integers(0, 4), st.integers(1, 60))
def test_a_bound_holds_the_fast_ones_back(speeds, bound, count):
    """Nobody begins a gradient more than `bound` ahead of the slowest, so none is older than
    2 bound + 1 updates of every other worker."""
    workers, pushed = len(speeds), [0] * len(speeds)
    for update in order_of(speeds, count, bound=bound):
        assert update.staleness <= (workers - 1) * (2 * bound + 1)
        pushed[update.worker] += 1
        assert pushed[update.worker] - min(pushed) <= bound + 1


@given(some_speeds, st.integers(1, 6))
def test_with_a_bound_of_zero_all_push_once_a_round(speeds, rounds):
    workers = len(speeds)
    updates = order_of(speeds, rounds * workers, bound=0)
    for first in range(0, len(updates), workers):
        turn = updates[first : first + workers]
        assert sorted(u.worker for u in turn) == list(range(workers))
        assert [u.staleness for u in turn] == list(range(workers))


def test_the_picture_in_the_docstring_is_true():
    rows = re.findall(r"worker (\d)   ([\d> ]+)\n", ps.__doc__ or "")
    assert len(rows) == 3
    updates = order_of((1, 1, 2), 10)
    for worker, row in rows:
        mine = [f"{u.version}>{u.number}" for u in updates if u.worker == int(worker)]
        assert row.split() == mine


def test_a_run_too_short_to_settle_counts_all_its_updates():
    found = staleness(order_of((1, 1, 1), 4), 3)
    assert found.settled == (0, 4) and found.total == expected_total(3, 4) == 5


def test_an_update_says_its_staleness():
    assert Update(number=9, worker=3, version=0).staleness == 9

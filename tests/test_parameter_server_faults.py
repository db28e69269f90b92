"""Faults planted in servers and workers: each turns red what it should, or ends the run by name."""

from __future__ import annotations

import pytest
from parameter_server_runs import Asked, Ran, asked, plan_of, run_all

from parallel_core.launch import Pool, RunError

pytestmark = pytest.mark.live

FAULTY = {
    "forgets one": "sync",
    "says more": "sync",
    "hands out old weights": "async",
    "applies twice": "async",
}


@pytest.fixture(scope="module")
def four(pool) -> dict[str, Ran]:
    """By fault: a run of four workers."""
    return run_all(
        pool, {fault: asked(plan_of(kind), fault=fault) for fault, kind in FAULTY.items()}
    )


@pytest.mark.parametrize("fault", ["forgets one", "hands out old weights", "applies twice"])
def test_a_server_that_does_otherwise_turns_the_parity_red(fault, four):
    assert four[fault].parity["max_rel_error"] > 1e-6


def test_a_message_too_many_turns_the_ledger_red(four):
    wire = four["says more"].report["ledger"]["wire"]
    assert wire["predicted"] != wire["measured"]
    assert four["says more"].parity["max_rel_error"] <= 1e-10  # nothing else would have told


def failure(pool: Pool, one: Asked) -> RunError:
    args = {"runs": [one.args]}
    with pool.start("parameter_server_targets:train_all", one.plan.world_size, args) as going:
        with pytest.raises(RunError) as raised:
            going.wait(timeout=120)
        return raised.value


def test_a_worker_that_dies_ends_the_run_with_its_name(pool):
    error = failure(pool, asked(plan_of("async"), 20, fault="dies"))
    assert error.rank == 1
    assert "rank 1 was killed by SIGKILL in step 2 at B layer0" in str(error)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ([0, 0, 0, 1], "update 2 cannot come from worker 0"),
        ([0, 1, 0], "the order names 3 updates: 2 steps of 2 workers have 4"),
    ],
)
def test_a_replay_that_cannot_be_says_why(order, says, pool):
    """At once, though the server would wait for a push that never comes."""
    plan = plan_of("async", dp=2, global_batch=2, staleness_bound=1)
    assert says in str(failure(pool, asked(plan, 2, replay_order=order)))

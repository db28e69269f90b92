"""Jobs: joined, queued, watched, cancelled; nothing runs that nobody looks at."""

from __future__ import annotations

import time

import pytest

from parallel_core.jobs import Jobs, QueueFull, Status

pytestmark = pytest.mark.live
NAP = "live_targets:nap"


@pytest.fixture
def jobs(pool):
    """A job manager with one slot, and room for two to wait."""
    jobs = Jobs(pool, slots=1, queue=2, lease_s=30.0, kept=3)
    yield jobs
    jobs.close()


def settle(jobs, id, status, seconds=30.0):
    """The job's state once it has `status`, or whatever it has after `seconds`."""
    end = time.monotonic() + seconds
    while (state := jobs.state(id)).status is not status and time.monotonic() < end:
        time.sleep(0.02)
    return state


def nap(seconds, name=""):
    return {"seconds": seconds, "name": name}


def test_a_job_runs_to_its_result(jobs):
    """Events arrive with offsets, the result by rank."""
    id = jobs.submit(NAP, 2, nap(0.01, "a"))
    state = settle(jobs, id, Status.DONE)
    assert (state.results, state.error, state.next) == (["a", "a"], "", 4)
    assert len(state.events) == 4 and jobs.state(id, 3).events == state.events[3:]
    assert jobs.state(id, 99).events == ()


def test_the_same_request_joins(jobs):
    """Two people who ask for the same get one job; a finished one is not joined."""
    first = jobs.submit(NAP, 1, {"seconds": 0.3, "name": "same"})
    assert jobs.submit(NAP, 1, {"name": "same", "seconds": 0.3}) == first
    assert jobs.submit(NAP, 1, nap(0.3, "other")) != first
    settle(jobs, first, Status.DONE)
    assert jobs.submit(NAP, 1, nap(0.3, "same")) != first


def test_a_queue_has_places_and_an_end(jobs):
    """One runs, two wait in order, the fourth is refused; a free slot moves all up."""
    ids = [jobs.submit(NAP, 1, nap(60, name)) for name in "abc"]
    assert [jobs.state(id).place for id in ids] == [0, 1, 2]
    with pytest.raises(QueueFull, match="3 jobs run or wait already"):
        jobs.submit(NAP, 1, nap(60, "d"))
    jobs.cancel(ids[0])
    assert settle(jobs, ids[0], Status.CANCELLED).error == "the job was cancelled"
    assert settle(jobs, ids[1], Status.RUNNING).status is Status.RUNNING
    assert jobs.state(ids[2]).place == 1
    jobs.cancel(ids[2])
    assert jobs.state(ids[2]).status is Status.CANCELLED


def test_nobody_looks(pool):
    """A job whose watchers are gone is cancelled, running or queued; a watched one is not."""
    jobs = Jobs(pool, slots=1, queue=2, lease_s=1.0)
    try:
        watched, left = (jobs.submit(NAP, 1, nap(60, name)) for name in "ab")
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            jobs.watch(watched, "tab 1")
            time.sleep(0.1)
        assert jobs.state(left).status is Status.CANCELLED
        assert jobs.state(left).error == "nobody watched the job for 1 s"
        assert jobs.state(watched).status is Status.RUNNING
        assert jobs.state(watched).watchers == 1
        assert settle(jobs, watched, Status.CANCELLED, 10).status is Status.CANCELLED
    finally:
        jobs.close()


def test_a_job_fails_in_one_sentence(jobs):
    """The run's error is the job's, with its traceback apart; the next job runs."""
    id = jobs.submit("live_targets:raise_in_step", 2, {"culprit": 1, "step": 0})
    after = jobs.submit(NAP, 1, nap(0.01))
    state = settle(jobs, id, Status.FAILED)
    assert state.error.startswith("rank 1 failed in step 0 at F layer0: ValueError")
    assert "raise_in_step" in state.detail
    assert settle(jobs, after, Status.DONE).status is Status.DONE


def test_a_job_that_cannot_start_fails(jobs):
    """A request that the pool refuses is a failed job, not one that runs for ever."""
    state = settle(jobs, jobs.submit(NAP, 0, nap(0)), Status.FAILED)
    assert "world_size=0 must be at least 1" in state.error


def test_old_jobs_are_forgotten(jobs):
    """Only the last few finished jobs are kept."""
    ids = []
    for number in range(5):
        ids.append(jobs.submit(NAP, 1, nap(0, str(number))))
        settle(jobs, ids[-1], Status.DONE)
    with pytest.raises(KeyError):
        jobs.state(ids[0])
    assert jobs.state(ids[-1]).status is Status.DONE
    jobs.watch(ids[0], "tab")  # a page that still asks for it is no error
    jobs.cancel(ids[0])


def test_close_ends_everything(pool):
    """Closing cancels what runs and what waits, and refuses what comes."""
    jobs = Jobs(pool)
    ids = [jobs.submit(NAP, 1, nap(60, name)) for name in "ab"]
    jobs.close()
    assert [jobs.state(id).status for id in ids] == [Status.CANCELLED] * 2
    with pytest.raises(QueueFull, match="closing"):
        jobs.submit(NAP, 1, nap(60))

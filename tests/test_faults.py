"""Ranks that die or hang: the run ends in seconds, names the culprit, leaves nothing behind."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import session_of

from parallel_core import verdict
from parallel_core.heartbeat import TICK, Board, Watch
from parallel_core.launch import RunError
from parallel_core.rank import Rank


@pytest.fixture
def fault(pool):
    """Start a run, do something to it, and give its RunError and the seconds it took."""

    def run(target, n, args, *, act=lambda run: None, **limits):
        with pool.start(target, n, args, **limits) as run:
            acted = act(run) or time.monotonic()
            with pytest.raises(RunError) as caught:
                run.wait(60)
            took = time.monotonic() - acted
        assert session_of(pool.supervisor_pid) == [pool.supervisor_pid], "a rank is left"
        assert not run.dir.exists(), "a file is left"
        assert "\n" not in str(caught.value)
        return caught.value, took

    return run


def _pid(pool, run, rank):
    """The process id of a rank: the ranks are forked in order."""
    ranks = [p for p in session_of(pool.supervisor_pid) if os.getpgid(p) != pool.supervisor_pid]
    return sorted(ranks)[rank]


def _hit(pool, number, rank, step):
    """Send a signal to `rank` once the run has reached `step`; gives the moment of it."""

    def act(run):
        next(event for event in run.events() if event["step"] >= step)
        threading.Thread(target=lambda: list(run.events()), daemon=True).start()
        os.kill(_pid(pool, run, rank), number)
        return time.monotonic()

    return act


def _strike(pool, fault, seed):
    """One SIGKILL or SIGSTOP of a random rank of a random world at a random step."""
    dice = random.Random(seed)
    n, step = dice.choice([2, 3, 4]), dice.randrange(40)
    rank, number = dice.randrange(n), dice.choice([signal.SIGKILL, signal.SIGSTOP])
    act = _hit(pool, number, rank, step)
    error, took = fault("live_targets:loop", n, {}, act=act, stall_s=1.0)
    what = "was killed by SIGKILL" if number == signal.SIGKILL else "stopped responding for"
    assert re.match(rf"rank {rank} {what}.* in step \d+ at ", str(error)), str(error)
    assert int(re.search(r"in step (\d+)", str(error))[1]) >= step
    assert error.rank == rank
    assert took < 10


@pytest.mark.live
@pytest.mark.parametrize("seed", range(10))
def test_a_rank_is_killed_or_stopped(pool, fault, seed):
    """kill -9 or SIGSTOP at a random step: the right rank is named, and nothing is left."""
    _strike(pool, fault, seed)


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 110))
def test_a_hundred_ranks_are_killed_or_stopped(pool, fault, seed):
    """The same, a hundred times."""
    _strike(pool, fault, seed)


@pytest.mark.live
def test_the_sentence_for_a_killed_rank(pool, fault):
    """Rank, signal, step, instruction, and what became of the others."""
    error, _ = fault("live_targets:loop", 4, {}, act=_hit(pool, signal.SIGKILL, 2, 5))
    place = r"in step \d+ at (F layer0|all_reduce bucket0)"
    others = "; the other 3 ranks were stopped"
    assert re.fullmatch(f"rank 2 was killed by SIGKILL {place}{others}", str(error))


@pytest.mark.live
def test_the_sentence_for_a_stopped_rank(pool, fault):
    """The rank that is stopped is named, not the one that waits for it."""
    error, _ = fault("live_targets:loop", 2, {}, act=_hit(pool, signal.SIGSTOP, 1, 5), stall_s=0.5)
    place = r"in step \d+ at (F layer0|all_reduce bucket0)"
    why = r"\(process is stopped\); the other rank was stopped"
    assert re.fullmatch(rf"rank 1 stopped responding for \d\.\d s {place} {why}", str(error))


@pytest.mark.live
def test_a_rank_that_stops_before_it_begins(fault):
    """A rank with no heartbeat yet is named as well."""
    error, _ = fault("live_targets:hold_and_stop", 1, {}, stall_s=0.5)
    assert re.match(r"rank 0 stopped responding for 0.\d s before its first step", str(error))


@pytest.mark.live
@pytest.mark.parametrize("culprit", [0, 2])
def test_an_exception_is_told_by_the_rank_that_raised_it(fault, culprit):
    """The rank's own error and traceback, not its peers' lost connections."""
    error, _ = fault("live_targets:raise_in_step", 3, {"culprit": culprit, "step": 4})
    others = "; the other 2 ranks were stopped"
    told = f"rank {culprit} failed in step 4 at F layer0: ValueError: the batch is empty{others}"
    assert str(error) == told
    assert "in raise_in_step" in error.detail and "and a second line" in error.detail


@pytest.mark.live
def test_a_rank_that_leaves(fault):
    """An exit without a result is a failure, whatever its code."""
    for code in (0, 3):
        error, _ = fault("live_targets:leave", 2, {"culprit": 1, "code": code})
        assert str(error).startswith(f"rank 1 ended with exit code {code} before its first step")


@pytest.mark.live
def test_messages_that_do_not_match(fault):
    """gloo aborts a process whose message has another size; its reason is in the sentence."""
    error, _ = fault("live_targets:mismatch", 2, {})
    assert re.match(r"rank \d was killed by SIGABRT in step 0 at instruction 0: \S", str(error))
    assert "live_targets.py" in error.detail  # the Python stack of the crash


@pytest.mark.live
def test_nobody_moves(fault):
    """Ranks that live but wait for one another: who is behind, and where each waits."""
    error, took = fault("live_targets:stand", 3, {"culprit": 1}, silence_s=1.0)
    words = (
        r"no rank moved for 1\.\d s: rank 1 is furthest behind, in step 3 at F layer0; "
        r"rank 0 waits in step 3 at all_reduce bucket0; "
        r"rank 2 waits in step 3 at all_reduce bucket0"
    )
    assert re.fullmatch(words, str(error)), str(error)
    assert error.rank == 1 and took < 10


@pytest.mark.live
def test_a_long_c_call_is_no_stop(pool, fault):
    """A rank that computes without letting its heart beat is borne six times as long."""
    args = {"culprit": 1, "seconds": 1}
    with pool.start("live_targets:hold_interpreter", 2, args, stall_s=0.4) as run:
        assert run.wait(60) == ["done", "done"]
    error, _ = fault("live_targets:hold_interpreter", 2, {**args, "seconds": 60}, stall_s=0.4)
    words = r"rank 1 stopped responding for [23].\d s .*\(process is sleeping\)"
    assert re.match(words, str(error)), str(error)


@pytest.mark.live
def test_a_paused_supervisor_blames_nobody(pool):
    """When the whole session was paused, the run goes on as if nothing had been."""
    with pool.start("live_targets:loop", 2, {"steps": 400}, stall_s=1.0) as run:
        events = run.events()
        next(events)
        everybody = session_of(pool.supervisor_pid)
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5)
        for pid in everybody:  # the supervisor first: it wakes to ranks that are stopped
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.2)
        assert run.wait(60) == [400, 400]


# -- the judgement itself, without processes ---------------------------------------------------


def test_a_cause_is_named_before_its_echo():
    """Of several failures the surest cause is named, whoever spoke first."""

    def told(error):
        return {"error": error, "detail": "", "chain": error}

    echo = verdict.of_exception(0, told("RuntimeError: Connection reset by peer"))
    abort = verdict.of_exit(1, -signal.SIGABRT, "what():  sizes differ\n")
    own = verdict.of_exception(2, told("ValueError: no"))
    killed = verdict.of_exit(3, -signal.SIGSEGV, "")
    ranks = [f.rank for f in sorted([echo, abort, own, killed], key=lambda f: f.certainty)]
    assert ranks == [2, 3, 1, 0]
    assert abort.sentence("here", 1) == "rank 1 was killed by SIGABRT here: sizes differ"
    assert killed.sentence("here", 2).endswith("; the other rank was stopped")
    assert verdict.of_exit(0, -40, "").what == "was killed by signal 40"


def test_where_a_rank_stands(tmp_path):
    """The rank's own words for an instruction, its number where there are none."""
    labels = tmp_path / "labels-0.json"
    assert verdict.where((-1, -1), labels) == "before its first step"
    assert verdict.where((2, 7), labels) == "in step 2 at instruction 7"
    labels.write_text('["F layer0"]')
    assert verdict.where((2, 0), labels) == "in step 2 at F layer0"
    assert verdict.where((2, 7), labels) == "in step 2 at instruction 7"


def test_a_watch_tells_waiting_from_stopped():
    """A rank that ticks is alive; one that neither ticks nor moves grows still."""
    board = Board(2)
    watch = Watch(board, now=0.0)
    board.row(0)[TICK] += 1
    watch.look(1.0)
    watch.look(3.0)
    assert [watch.stillness(rank, 3.0) for rank in (0, 1)] == [2.0, 3.0]
    assert watch.stillest([0, 1]) == [1, 0] and watch.silence(3.0) == 3.0
    watch.forgive(3.0)
    assert watch.stillness(1, 3.0) == 0.0 and watch.silence(3.0) == 0.0


def test_a_beat_costs_little():
    """Two stores into shared memory: a microsecond would be much."""
    board = Board(2)
    rank = Rank(1, 2, dir=Path(), row=board.row(1), emit=print)
    begin = time.perf_counter()
    for index in range(10_000):
        rank.beat(3, index)
    cost = (time.perf_counter() - begin) / 10_000
    print(f"a beat: {cost * 1e9:.0f} ns")
    assert board.place(1) == (3, 9_999)
    assert cost < 20e-6  # generous: the machine may be busy

"""The launcher: ranks start at once, meet with no port, and leave no process and no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import session_of

from parallel_core import rundir, zygote
from parallel_core.launch import Pool, RunCancelled, RunError

HERE = str(Path(__file__).parent)
pytestmark = pytest.mark.live


def runs(pid):
    """Whether a process lives (a zombie that init has yet to reap does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(true, seconds=5.0):
    """Whether `true()` becomes so in time."""
    end = time.monotonic() + seconds
    while not (now := true()) and time.monotonic() < end:
        time.sleep(0.01)
    return now


def test_four_ranks_sum(on_ranks):
    """An all-reduce over four forked ranks gives every rank the sum."""
    assert on_ranks(4, "live_targets:total") == [[10.0] * 3] * 4


def test_one_rank_is_a_run_too(on_ranks):
    """A world of one is started the same way."""
    assert on_ranks(1, "live_targets:total") == [[1.0] * 3]


def test_a_rank_knows_its_place(pool):
    """Rank, world size, arguments, one intra-op thread, gloo where there is no GPU."""
    with pool.start("live_targets:echo", 3, {"name": "x\ny", "n": [1, None]}) as run:
        for rank, seen in enumerate(run.wait(60)):
            assert (seen["rank"], seen["world_size"], seen["threads"]) == (rank, 3, 1)
            assert seen["args"] == {"name": "x\ny", "n": [1, None]}
            assert seen["dir"] == str(run.dir)


def test_the_first_sum_is_there_at_once(pool, record_property):
    """Request to first finished all-reduce; forked from a warm supervisor it takes no seconds."""
    pool.warm()
    with pool.start("live_targets:first_sum", 2, {}) as run:
        run.wait(60)
    for n in (2, 4, 8):
        asked = time.perf_counter()
        with pool.start("live_targets:first_sum", n, {}) as run:
            latency = max(run.wait(60)) - asked
        record_property(f"start_{n}_ranks_s", latency)
        print(f"{n} ranks: {latency:.3f} s")
        assert latency < 10  # only a hang is a failure: the machine may be busy


def test_events_arrive_whole_and_in_order(pool):
    """Lines far beyond a pipe's capacity, from several ranks at once, stay lines."""
    with pool.start("live_targets:emit_much", 3, {"lines": 6, "size": 300_000}) as run:
        seen = {rank: [] for rank in range(3)}
        for event in run.events():
            assert event["text"] == chr(97 + event["rank"]) * 300_000
            seen[event["rank"]].append(event["number"])
        assert seen == {rank: list(range(6)) for rank in range(3)}
        assert run.wait() == [6, 6, 6]


def test_two_runs_at_once(pool):
    """Runs of one pool do not wait for, or hear, each other."""
    with pool.start("live_targets:pids", 2, {}) as long:
        with pool.start("live_targets:total", 2, {}) as short:
            assert short.wait(60) == [[3.0] * 3] * 2
            assert not long.ended
        assert long.dir != short.dir


def test_output_goes_to_a_log(pool, capfd):
    """What a rank prints is in its log, and not on its owner's terminal."""
    with pool.start("live_targets:chatter", 2, {}) as run:
        run.wait(60)
        for rank in range(2):
            for line in ("hello from print", "hello from stderr", "hello from the descriptor"):
                assert line in run.log(rank)
    out, err = capfd.readouterr()
    assert "hello" not in out + err


def test_the_directory_is_private_and_goes(pool):
    """A run's directory is its owner's alone, and is gone once the run is closed."""
    with pool.start("live_targets:chatter", 1, {}) as run:
        run.wait(60)
        assert run.dir.stat().st_mode & 0o777 == 0o700
        assert run.dir.parent.stat().st_mode & 0o777 == 0o700
    assert not run.dir.exists()


def test_nothing_listens_outside_loopback(monkeypatch):
    """Whatever interface gloo would choose, the ranks listen on 127.0.0.1 alone."""
    loopback = zygote._loopback()
    for name, state in psutil.net_if_stats().items():
        if state.isup and name != loopback:
            monkeypatch.setenv("GLOO_SOCKET_IFNAME", name)  # as on a cluster's login node
    with Pool(path=[HERE]) as pool, pool.start("live_targets:loop", 3, {}) as run:
        next(run.events())
        listening = [
            connection
            for pid in session_of(pool.supervisor_pid)
            for connection in psutil.Process(pid).net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    assert listening, "gloo listens somewhere"
    assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1", "::1"}


def test_the_supervisor_has_one_thread(pool, on_ranks):
    """Fork is safe because the process that forks has one thread."""
    on_ranks(2, "live_targets:total")
    assert psutil.Process(pool.supervisor_pid).num_threads() == 1


def test_cancel_ends_a_run_within_a_second(pool):
    """A cancelled run ends with RunCancelled, and its ranks were asked before they were killed."""
    with pool.start("live_targets:until_cancelled", 2, {}) as run:
        events = run.events()
        next(events)
        asked = time.monotonic()
        run.cancel()
        with pytest.raises(RunCancelled, match="cancelled"):
            run.wait(10)
        assert time.monotonic() - asked < 2  # 1 s, and one for a busy machine
        assert any(event.get("saw") for event in events)
    assert wait_until(lambda: session_of(pool.supervisor_pid) == [pool.supervisor_pid])


def test_closing_a_run_ends_it(pool):
    """Leaving the block of a run that still goes leaves no rank."""
    with pool.start("live_targets:pids", 2, {}) as run:
        pids = [event["pid"] for _, event in zip(range(2), run.events(), strict=False)]
    assert not any(runs(pid) for pid in pids)


def test_a_process_started_by_a_rank_ends_too(pool):
    """The run's whole process group goes, not the ranks alone."""
    with pool.start("live_targets:grandchild", 1, {}) as run:
        pid = next(run.events())["pid"]
        run.wait(60)
    assert wait_until(lambda: not runs(pid))


def test_a_target_that_is_not_there(pool):
    """A wrong target, result or argument is told in one sentence with the rank."""
    for target, words in (
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("live_targets:nothing", "no attribute 'nothing'"),
    ):
        with pool.start(target, 2, {}) as run, pytest.raises(RunError, match=words) as caught:
            run.wait(60)
        assert str(caught.value).startswith("rank ") and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="world_size=0 must be at least 1"):
        pool.start("live_targets:total", 0, {})


def test_the_owner_imports_no_torch():
    """Starting runs costs a page or a command no torch."""
    code = "import sys, parallel_core.jobs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


OWNER = """
import sys, time
sys.path.insert(0, {here!r})
from parallel_core.launch import Pool
pool = Pool(path=[{here!r}])
run = pool.start("live_targets:loop", 3, {{}})
next(run.events())
print(pool.supervisor_pid, pool.base, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_owner_dies(number):
    """However the owner dies, supervisor, ranks and files are gone within seconds."""
    code = OWNER.format(here=HERE)
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    supervisor, base = owner.stdout.readline().decode().split()
    assert len(session_of(int(supervisor))) == 4
    owner.send_signal(number)
    owner.wait(10)
    owner.stdout.close()
    assert wait_until(lambda: not session_of(int(supervisor)), 2.0)
    assert wait_until(lambda: not Path(base).exists(), 2.0)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_the_supervisor_dies():
    """A killed supervisor takes every rank along; the next run has a new supervisor.

    A stopped rank, one that only the lifeline reaches, and one that only the kernel reaches,
    because a C call holds its interpreter.
    """
    with Pool(path=[HERE]) as pool:
        started = [
            pool.start("live_targets:hold_and_stop", 1, {}, stall_s=60.0),
            pool.start("live_targets:lifeline_alone", 2, {}),
            pool.start("live_targets:hold_interpreter", 1, {"culprit": 0, "seconds": 60}),
        ]
        for run in started:
            next(run.events())
        time.sleep(0.2)  # from the event to the stop, and to the C call
        supervisor, base = pool.supervisor_pid, pool.base
        os.kill(supervisor, signal.SIGKILL)
        for run in started:
            with pytest.raises(RunError, match="supervisor of the ranks was killed by SIGKILL"):
                run.wait(10)
        assert wait_until(lambda: not session_of(supervisor), 2.0)
        with pool.start("live_targets:total", 2, {}) as run:
            assert run.wait(60) == [[3.0] * 3] * 2
        assert not base.exists() and pool.supervisor_pid != supervisor


def test_a_supervisor_that_cannot_start():
    """An import error of the supervisor is the run's error, in one sentence."""
    with (
        Pool(preload=["no_such_module"]) as pool,
        pool.start("live_targets:total", 2, {}) as run,
        pytest.raises(RunError, match=r"exited with 1 .*No module named 'no_such_module'"),
    ):
        run.wait(60)


def test_sweep_removes_what_nobody_holds():
    """Directories of dead owners are removed; those of living ones, this one's too, are not."""
    mine, fd = rundir.claim()
    dead = mine.with_name(mine.name + "-dead")
    dead.mkdir()
    (dead / "lock").touch()
    rundir.sweep()
    assert mine.exists() and not dead.exists()
    os.close(fd)
    rundir.sweep()
    assert not mine.exists()


def test_a_pool_inside_torchrun_is_its_own(monkeypatch):
    """The ranks of a pool do not take the owner's torchrun environment for theirs."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "7")
    assert not any(value == "7" for value in zygote._environment().values())


TORCHRUN = """
import sys
sys.path.insert(0, {here!r})
from live_targets import total
from parallel_core.rank import torchrun_rank
rank = torchrun_rank(print)
rank.beat(0, 0)
result = total(rank)
rank.emit({{"sum": result[0], "rank": rank.rank}})
rank.close()
"""


def test_the_same_target_under_torchrun(tmp_path):
    """torchrun starts the same function; rank 0 alone speaks."""
    script = tmp_path / "script.py"
    script.write_text(TORCHRUN.format(here=HERE))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script)], capture_output=True, text=True, timeout=120, env=env
    )
    assert done.stdout.strip() == "{'sum': 3.0, 'rank': 0}", done.stderr[-2000:]

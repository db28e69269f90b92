"""Two torchrun agents as two nodes: one layout across both, one trace, on one clock."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.elastic import on_our_clock
from parallel_core.meetings import complete, messages
from parallel_core.node_clock import NodeClock, Reading, reading
from parallel_core.program import Op
from parallel_core.trace import Trace

HERE = Path(__file__).parent
SMALL = ["--layers=2", "--hidden=32", "--heads=2", "--seq=16", "--global-batch=8"]
AHEAD = 5_000_000  # nanoseconds
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def two_agents(programs, ranks_a_node):
    """Start a torchrun agent for each program, as nodes that meet on loopback; what rank 0 said."""
    launcher = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2"),
        *(f"--nproc-per-node={ranks_a_node}", "--rdzv-backend=c10d", "--rdzv-id=shardlab"),
        *(f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1"),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENV}
    agents = [subprocess.Popen([*launcher, *program], **pipes) for program in programs]
    try:
        said = [agent.communicate(timeout=150) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], said[0][1] + said[1][1]
    (spoken,) = [out for out, _ in said if out.strip()]  # one rank speaks for the run
    return json.loads(spoken)


def late_ends(trace: Trace, slack_ns: int) -> list[tuple]:
    """All-reduces that were over on one rank before another had begun them."""
    return [
        ends
        for ends in messages(trace)
        if ends[0].op == Op.ALL_REDUCE and complete(ends)
        if max(end.t_start for end in ends) > min(end.t_done for end in ends) + slack_ns
    ]


@pytest.mark.live
def test_one_layout_trains_across_two_nodes(tmp_path):
    """Two agents with two ranks each, c10d rendezvous: the numbers are those of one process."""
    file = tmp_path / "out.json"
    words = ["run", "--dp=2", "--pp=2", "--steps=2", *SMALL, f"--trace={file}", "--json"]
    program = ["-m", "parallel_core.cli", *words]
    report = two_agents([program, program], 2)
    assert report["layout"]["world_size"] == 4
    assert report["parity"]["max_rel_error"] <= 1e-5
    (clock,) = report["trace"]["clocks"]
    for when in ("before", "after"):  # one machine, one clock: it is found to be none off
        assert abs(clock[when]["off_ns"]) <= clock[when]["unsure_ns"] < 50_000_000
    trace = Trace.from_json(file.read_text())
    assert {span.rank for span in trace.spans} == set(range(4))
    assert late_ends(trace, 2 * clock["unsure_ns"]) == []
    (laid,) = trace.provenance.clocks  # what the picture draws is what was measured
    assert (laid.node, laid.off_ns) == (clock["node"], clock["before"]["off_ns"])
    assert laid.ranks == (2, 3) and laid.unsure_ns == clock["unsure_ns"]
    assert "2 nodes on the clock of node 0: node 1 was" in trace.provenance.badge
    assert "±" in trace.provenance.badge


@pytest.mark.live
def test_a_node_whose_clock_is_ahead_is_laid_back(tmp_path):
    """5 ms are found to within what is said, and no message ends before it begins; unshifted it
    would."""
    file = tmp_path / "out.json"
    words = ["run", "--dp=2", "--steps=24", *SMALL, f"--trace={file}", "--json", "--no-parity"]
    right = ["-m", "parallel_core.cli", *words]
    skewed = [str(HERE / "skewed_node.py"), str(AHEAD), *words]
    report = two_agents([right, skewed], 1)
    (clock,) = report["trace"]["clocks"]
    # which agent became node 0 is torchrun's to say
    sign = 1 if clock["before"]["off_ns"] > 0 else -1
    for when in ("before", "after"):
        assert abs(clock[when]["off_ns"] - sign * AHEAD) <= clock[when]["unsure_ns"]
    unsure = clock["unsure_ns"]
    assert unsure < AHEAD / 4, "the machine is too busy for this to say anything"
    trace = Trace.from_json(file.read_text())
    assert late_ends(trace, 2 * unsure) == []
    wrong = sign * AHEAD  # of many messages one is faster than that, also on a busy machine
    moved = [
        replace(s, t_start=s.t_start + wrong, t_done=s.t_done + wrong) if s.rank == 1 else s
        for s in trace.spans
    ]
    assert late_ends(replace(trace, spans=tuple(moved)), 2 * unsure), (
        "nobody would notice a wrong clock"
    )


@pytest.mark.live
@pytest.mark.parametrize("skew_ns", [AHEAD, -3_600_000_000_000, 0])
def test_a_skewed_clock_is_recovered(skew_ns, on_ranks):
    """What was injected lies within the uncertainty that is stated, which is well below it."""
    (clock,), _ = on_ranks(2, "node_targets:skewed", skew_ns=skew_ns, drift=0.0)
    for when in ("before", "after"):
        assert abs(clock[when]["off_ns"] - skew_ns) <= clock[when]["unsure_ns"]
    assert clock["unsure_ns"] < 20_000_000


@pytest.mark.live
def test_a_drift_is_followed(on_ranks):
    """A clock that runs 2 % fast is 6 ms further after 0.3 s; the two readings differ by that."""
    (clock,), _ = on_ranks(2, "node_targets:skewed", skew_ns=0, drift=0.02)
    first, last = clock["before"], clock["after"]
    own = last["at_ns"] - first["at_ns"]
    assert own > 250_000_000, "the two readings lie apart"
    true = own * 0.02 / 1.02
    assert abs(last["off_ns"] - first["off_ns"] - true) <= first["unsure_ns"] + last["unsure_ns"]


@given(
    st.integers(-(10**12), 10**12),
    st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=1, max_size=8),
)
def test_the_truth_is_within_half_a_round_trip(off, trips):
    """However unevenly a trip is shared between its two ways."""
    times = []
    for there, inside, back in trips:
        t0 = 1_000
        times.append((t0, t0 + there + off, t0 + there + inside + off, t0 + there + inside + back))
    found = reading(times)
    assert abs(found.off_ns - off) <= found.unsure_ns
    assert found.unsure_ns == (min(there + back for there, _, back in trips) + 1) // 2


@given(st.integers(-(10**9), 10**9), st.integers(-(10**6), 10**6), st.floats(0, 1))
def test_a_drift_is_even_between_the_two_readings(off, drift, part):
    """A time on the way is shifted by its share; times keep their order within a node."""
    one = NodeClock(
        node=1,
        before=Reading(at_ns=0, off_ns=off, unsure_ns=10),
        after=Reading(at_ns=10**10, off_ns=off + drift, unsure_ns=30),
    )
    t = round(part * 10**10)
    assert abs(t - one.shifted(t) - (off + part * drift)) <= 1
    assert one.shifted(-5) == -5 - off and one.unsure_ns == 30
    note = [0, 1, t, t, t + 7, 3, 4, 5, [("send", "tp", 8, t, t + 7)]]
    (moved,) = one.shift_notes([note])
    assert moved[2:5] == [one.shifted(t), one.shifted(t), one.shifted(t + 7)]
    assert on_our_clock({"event": "notes", "notes": [note]}, one)["notes"] == [moved]
    gauge = {"event": "gauge", "rank": 3, "rows": [[0, 1, t, 7, 8]]}
    assert on_our_clock(gauge, one)["rows"] == [[0, 1, one.shifted(t), 7, 8]]
    assert on_our_clock(gauge, None) is gauge
    assert moved[:2] + moved[5:8] == [0, 1, 3, 4, 5] and moved[8][0][3] == moved[2]

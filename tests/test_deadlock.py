"""Deadlocks happen on live ranks, are found in seconds, and everybody's place in them is named."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from conftest import session_of
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.analysis.wait_for import Stand, State, WaitFor
from parallel_core.cli.deadlock_command import command
from parallel_core.deadlock.finding import LEGAL, find, verdict
from parallel_core.deadlock.programs import CASES
from parallel_core.deadlock.rendezvous import Deadlock, StrictComm
from parallel_core.launch import RunError
from parallel_core.views.wait_for import describe, wait_for

live = pytest.mark.live
SOON = 5.0  # seconds from the moment all ranks have met
HELD = {  # who can never go on, and a circle of them
    "send-send": ((0, 1), {0, 1}),
    "collective-order": ((0, 1, 2, 3), {0, 1, 2, 3}),
    "empty-expert": ((0, 1, 2, 3), {0, 3}),
    "empty-expert-backward": ((0, 1, 2, 3), {0, 3}),
}


@pytest.fixture(scope="module")
def findings(pool):
    """What was found of every careless case, on live ranks that met strictly."""
    return {name: find(name, pool) for name in CASES}


@live
@pytest.mark.parametrize("name", CASES)
def test_a_careless_order_hangs_and_is_found_in_seconds(name, findings, pool):
    """Every rank's position is named, the circle is closed, and no rank of it is left."""
    found = findings[name]
    held, circle = HELD[name]
    assert found.graph is not None and found.seconds < SOON
    assert found.graph.deadlocked == held and set(found.graph.circle) == circle
    for stand in found.graph.stands:
        assert f"rank {stand.rank} waits at {stand.op} {stand.what}" in found.sentence
        assert stand.what and stand.waited_s > 0
    assert found.ended == ()
    assert session_of(pool.supervisor_pid) == [pool.supervisor_pid]


@live
def test_check_says_the_same_before_anything_runs(findings):
    """Of an order that is careless as written; what autograd leaves out is seen only as it ran."""
    assert "rank 0 (compute) waits at send act mb1 <>1" in findings["send-send"].written
    assert findings["collective-order"].written.startswith("deadlock: rank 0")
    never = "rank 3 never joins all_to_all"
    assert findings["empty-expert"].written.startswith(never)
    assert findings["empty-expert-backward"].written == LEGAL
    assert findings["empty-expert-backward"].ran.startswith(f"{never} B experts on ep")


@live
def test_the_record_of_the_calls_names_who_never_came(findings):
    """The calls, read as a flight record, give the verdict that one of NCCL's would."""
    blame = findings["empty-expert"].blame
    assert any(
        "ranks 0, 1, 2 stand in all_to_all" in line and "rank 3 never" in line for line in blame
    )


@live
@pytest.mark.parametrize("name", CASES)
def test_the_cured_order_comes_to_its_end(name, pool):
    """Nobody is accused who can go on: the cures pass check, and end under the same strictness."""
    found = find(name, pool, cured=True)
    assert found.graph is None and found.written == LEGAL
    assert found.ended == tuple(range(found.program.mesh.size))


@live
@pytest.mark.parametrize("name", ["send-send", "collective-order"])
def test_without_strictness_nothing_is_seen(name, pool):
    """gloo's sends and all-reduces return unmatched: the same careless program just ends."""
    found = find(name, pool, buffered=True)
    assert found.graph is None and found.ended == tuple(range(found.program.mesh.size))
    assert found.written != LEGAL


@live
def test_without_strictness_an_empty_expert_hangs_and_nobody_says_why(pool):
    """The ranks stand in gloo until they are stopped, and none is left."""
    found = find("empty-expert", pool, buffered=True, limit_s=1.5)
    assert found.graph is None and found.ended == () and "nothing says why" in found.sentence
    assert session_of(pool.supervisor_pid) == [pool.supervisor_pid]


@live
def test_a_slow_rank_is_not_accused(pool):
    """A peer that computes for longer than the patience is waited for."""
    with pool.start("deadlock_targets:slow_peer", 2, {"seconds": 0.8, "patience_s": 0.1}) as run:
        assert run.wait(30) == [3.0, 3.0]


@live
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gone", "rank 1 has ended; rank 1 will never come"),
        ("other", "rank 1 waits at broadcast"),
    ],
)
def test_a_rank_that_ended_or_called_something_else(kind, words, pool):
    """The exception is the sentence, in any code that uses a StrictComm."""
    begun = time.monotonic()
    with (
        pool.start("deadlock_targets:left_alone", 2, {"kind": kind}) as run,
        pytest.raises(RunError, match="Deadlock: deadlock: rank 0 waits at all_reduce") as caught,
    ):
        run.wait(30)
    assert words in str(caught.value) and time.monotonic() - begun < SOON


# ------------------------------------------------------------------------------ the graph itself


def waits(rank, peer):
    """A rank that waits to receive from another, which has posted nothing."""
    channel = f"{peer} to {rank}"
    return Stand(
        rank=rank,
        state=State.WAITS,
        op="recv",
        what="x",
        channel=channel,
        members=(peer, rank),
        number=1,
        posted={channel: (1, "recv")},
    )


@given(st.lists(st.integers(-2, 5), min_size=1, max_size=6))
def test_deadlocked_is_who_never_reaches_a_rank_that_runs(choices):
    """Follow the one arrow of each: a way that ends at a rank that runs is no deadlock."""
    n = len(choices)
    stands = []
    for rank, choice in enumerate(choices):
        peer = choice % n
        if choice == -1 or (choice >= 0 and peer == rank):
            stands.append(Stand(rank=rank))
        elif choice == -2:
            stands.append(Stand(rank=rank, state=State.ENDED))
        else:
            stands.append(waits(rank, peer))
    expected = []
    for start in range(n):
        at, steps = start, 0
        while stands[at].state == State.WAITS and steps <= n:
            at, steps = choices[at] % n, steps + 1
        if stands[start].state == State.WAITS and stands[at].state != State.RUNS:
            expected.append(start)
    graph = WaitFor(tuple(stands))
    assert graph.deadlocked == tuple(expected)
    closed = zip(graph.circle, (*graph.circle[1:], *graph.circle[:1]), strict=True)
    assert {(a.waiter, a.peer) for a in graph.arrows} >= set(closed)
    assert bool(expected) <= bool(graph.circle or graph.ended)
    assert WaitFor(tuple(Stand.of(s.as_json()) for s in stands)) == graph


@pytest.mark.parametrize("moves", [True, False])
def test_only_a_board_that_holds_still_is_believed(moves):
    """Rows are read one after another: if one has moved meanwhile, what they show together may
    never have been; the rank looks again, and nobody is accused."""
    stuck, free = WaitFor((waits(0, 1), waits(1, 0))), WaitFor((Stand(rank=0), Stand(rank=1)))
    seen = iter(
        [(stuck, (2, 2)), (free if moves else stuck, (2, 4 if moves else 2)), (free, (4, 4))]
    )
    comm = object.__new__(StrictComm)
    comm.rank, comm._patience_s = 0, 0.0
    comm._board = SimpleNamespace(snapshot=lambda: next(seen))
    with nullcontext() if moves else pytest.raises(Deadlock, match="0 -> 1 -> 0"):
        comm._stand_until_met(time.monotonic())


def test_of_two_circles_the_shorter_is_named():
    """It is the one to look at first; all ranks of both are deadlocked."""
    ways = ((0, 1), (1, 2), (2, 0), (3, 4), (4, 3))
    graph = WaitFor(tuple(waits(*way) for way in ways))
    assert graph.circle == (3, 4) and graph.deadlocked == (0, 1, 2, 3, 4)


def test_a_way_to_a_rank_that_ended_is_told():
    """No circle: the rank that left is named."""
    graph = WaitFor((waits(0, 1), waits(1, 2), Stand(rank=2, state=State.ENDED)))
    assert graph.deadlocked == (0, 1) and graph.circle == () and graph.ended == (2,)
    assert graph.sentence.endswith("rank 2 will never come: look there first")


@pytest.mark.parametrize("dark", [False, True])
def test_the_picture_holds_every_rank_and_arrow(dark):
    """One box a rank, one path an arrow, those of the circle thick, and the same in words."""
    graph = WaitFor((waits(0, 1), waits(1, 0), waits(2, 0), Stand(rank=3, state=State.ENDED)))
    picture = wait_for(graph, dark=dark, badge="measured: gloo & co")
    root = ElementTree.fromstring(picture)
    space = "{http://www.w3.org/2000/svg}"
    paths = [p for p in root.iter(f"{space}path") if p.get("marker-end")]
    assert [p.get("marker-end") for p in paths] == ["url(#held)", "url(#held)", "url(#waits)"]
    assert sum("stroke-dasharray" in r.attrib for r in root.iter(f"{space}rect")) == 1
    text = "".join(root.itertext())
    assert all(f"rank {rank}" in text for rank in range(4)) and "measured: gloo & co" in text
    assert describe(graph).count("waits for rank") == 3


@pytest.mark.parametrize("name", CASES)
def test_a_cure_is_another_program_or_another_graph(name):
    """A cured program passes check; a careless one that passes too is cured in its layer."""
    case = CASES[name]
    assert verdict(case.cured()) == LEGAL
    assert (verdict(case.careless()) == LEGAL) == (name == "empty-expert-backward")


# ------------------------------------------------------------------------------ the command


@live
def test_the_command_shows_both_verdicts(tmp_path):
    """The program, check's words, the live finding, and the graph as a file."""
    file = tmp_path / "made/hang.svg"
    said = CliRunner().invoke(command, ["--case=send-send", f"--svg={file}", "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["check"]["program"].startswith("deadlock: rank 0 (compute) waits at send")
    assert found["live"]["circle"] == [0, 1] and found["live"]["seconds"] < SOON
    assert [wait["for"] for wait in found["live"]["waits"]] == [1, 0]
    assert "send act mb1 <>1" in found["program"]
    assert ElementTree.fromstring(file.read_text()) is not None


def test_a_case_that_is_not_there_is_refused():
    """The sentence names the cases."""
    said = CliRunner().invoke(command, ["--case=livelock"])
    assert isinstance(said.exception, ValueError) and "empty-expert" in str(said.exception)

"""Calls that do not match between ranks end in seconds, with both ranks and both calls named."""

from __future__ import annotations

import re
import time

import pytest
from conftest import session_of

from parallel_core.calls import SLOTS, CallMismatch, Register
from parallel_core.launch import RunError

pytestmark = pytest.mark.live


@pytest.fixture
def sentence(pool):
    """Run a faulty target to its end: what was said, on one line, within seconds."""

    def run(target, n, args, **limits):
        begun = time.monotonic()
        going = pool.start(f"calls_targets:{target}", n, args, **limits)
        with going, pytest.raises(RunError) as caught:
            going.wait(60)
        assert time.monotonic() - begun < 15
        assert session_of(pool.supervisor_pid) == [pool.supervisor_pid], "a rank is left"
        assert "\n" not in str(caught.value) and "SIGABRT" not in str(caught.value)
        return str(caught.value)

    return run


CALL = r"all_reduce float32\[64\] bucket0"
PLANTED = {
    "size": r"all_reduce float32\[400000\] bucket0",
    "dtype": r"all_reduce int32\[64\] bucket0",
    "order": r"all_reduce float32\[64\] bucket1",
    "op": r"broadcast float32\[64\]",
    "skip": r"all_reduce float32\[64\] bucket1",
}


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("kind", PLANTED)
def test_a_call_that_differs_is_told_with_both_ranks_and_both_calls(kind, n, sentence):
    """Other size, other type of the same size, other order of equal sizes, other op, one skipped:
    gloo would abort for the first and add up the wrong tensors for the others."""
    said = sentence("faulty", n, {"kind": kind})
    words = (
        r"CallMismatch: call over dp, number 5, does not match: (rank \d) calls (.*), (rank \d)"
        r" calls (.*); all must make the same calls in the same order; the other"
    )
    one, first, two, second = re.search(words, said).groups()
    calls = {one: first, two: second}
    assert re.fullmatch(PLANTED[kind], calls.pop("rank 1")), said
    (other,) = calls.values()
    assert re.fullmatch(CALL, other), said
    assert "in step 2 at" in said


def test_one_that_never_makes_its_last_call_is_told_by_its_silence(sentence):
    """Nothing is left to compare: who moves no more is furthest behind, the others wait."""
    said = sentence("skips_the_last", 3, {}, silence_s=1.0)
    assert "no rank moved for" in said
    assert "rank 1 waits in step 2 at F layer0" in said or "rank 1 is furthest behind" in said
    assert "in step 2 at all_reduce bucket0" in said


@pytest.mark.parametrize("kind", ["size", "dtype", "order"])
def test_the_ends_of_a_message_must_agree(kind, sentence):
    """Sender and receiver are both named, with what each of them has."""
    said = sentence("messages", 2, {"kind": kind})
    takes = {
        "size": r"float32\[4,300000\] act\[2\]",
        "dtype": r"int32\[4,2\] act\[2\]",
        "order": r"float32\[4,2\] act\[7\]",
    }[kind]
    words = (
        r"message from rank 0 to rank 1, number 3, does not match: rank 0 sends"
        rf" float32\[4,2\] act\[2\], rank 1 receives {takes}; "
    )
    assert re.search(words, said), said


def test_an_uneven_all_to_all_must_agree_pair_by_pair(sentence, on_ranks):
    """Rows may differ from pair to pair, but not between the two ends of one."""
    good = on_ranks(3, "calls_targets:to_all", wrong=False)
    assert all([row[0] for row in rows] == [0, 1, 1, 2, 2, 2] for rows in good)
    said = sentence("to_all", 3, {"wrong": True})
    ends = "rank 0 sends float32[1,3] all_to_all, rank 1 receives float32[2,3] all_to_all"
    assert ends in said


@pytest.mark.parametrize("kind", ["size", "algorithm"])
def test_a_collective_in_messages_whose_ranks_have_other_plans(kind, sentence):
    """Another size or another algorithm on one rank: its first message that differs is named."""
    said = sentence("collective", 4, {"kind": kind})
    assert re.search(
        r"message from rank (0 to rank 1|1 to rank \d), number \d, does not match: rank \d \w+"
        r" float32\[\d+\] step\d, rank \d \w+ float32\[\d+\] step\d",
        said,
    ), said


def test_calls_that_match_are_let_through(on_ranks):
    """The same targets without a fault, several Comms in one run, groups within groups."""
    assert on_ranks(3, "calls_targets:faulty", kind="none") == [[3.0] * 8] * 3
    assert on_ranks(2, "calls_targets:messages", kind="none") == [[], [0.0, 1.0, 2.0]]
    told = on_ranks(4, "calls_targets:two_comms")
    assert all(one == told[0] for one in told) and len(told[0]) == 4 * 8


def test_a_comparison_costs_little(on_ranks):
    """A few stores and loads: 5 microseconds a message would be much."""
    best = min(on_ranks(2, "calls_targets:price", calls=2000))
    print(f"a comparison: {best * 1e6:.1f} us")
    assert best < 100e-6  # generous: the machine may be busy


def test_a_register_goes_round_and_goes_on(tmp_path):
    """More calls than slots; a member one call ahead; a second register on the same file."""

    def member(rank):
        return Register(tmp_path / "calls", (4, 7), rank, what="call over tp", verbs=("a", "b"))

    one, two = member(4), member(7)
    for number in range(3 * SLOTS):
        one.post("op", None, (number,), "")
        two.post("op", None, (number,), "")
    one.post("op", None, (1, 2), "early")  # the other has not come yet
    again = member(7)
    with pytest.raises(CallMismatch, match=r"tp, number 13, .*rank 4 a op \[1,2\] early, rank 7 b"):
        again.post("op", None, (1, 2), "late")


def test_the_number_of_a_call_may_go_round(tmp_path):
    """After 2**24 calls the numbers begin anew, and the comparison goes on."""
    ends = [
        Register(tmp_path / "calls", (0, 1), r, what="call", verbs=("calls",) * 2) for r in (0, 1)
    ]
    for end in ends:
        end._count = 2**24 - 3
    for _ in range(2 * SLOTS):
        for end in ends:
            end.post("op", None, None, "")
    ends[0].post("op", None, None, "one")
    with pytest.raises(CallMismatch, match="number 16777222, "):
        ends[1].post("op", None, None, "other")


def test_a_long_call_is_compared_whole(tmp_path):
    """What has no room in a slot still counts: two texts that begin alike are told apart."""
    ends = [
        Register(tmp_path / "calls", (0, 1), r, what="call", verbs=("calls",) * 2) for r in (0, 1)
    ]
    ends[0].post("op", None, None, "x" * 500 + "a")
    with pytest.raises(CallMismatch):
        ends[1].post("op", None, None, "x" * 500 + "b")

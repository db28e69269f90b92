"""Wait, queue and wire of messages: answers computable on paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
from analysis_traces import LATE, MS, reduce, span, trace

from parallel_core import places
from parallel_core.analysis.waits import totals, waits
from parallel_core.importers.load import load
from parallel_core.meetings import last_arrival, messages
from parallel_core.views import causes
from parallel_core.views.account import wait_text
from parallel_core.views.causes import message_ids, ordered


def test_a_collective_waits_for_the_last_to_post_and_says_what_it_was_doing():
    """wait_i = last post - own start; the rest is wire; the sentence names culprit and cause."""
    first, last = waits(LATE)
    assert (first.wait_ns, first.wire_ns, first.culprit) == (6 * MS, 1 * MS, 1)
    assert first.sentence == (
        "rank 0 waited 6 ms for rank 1, which was in F layer0 mb0; the wire took 1 ms"
    )
    assert (last.wait_ns, last.wire_ns, last.culprit) == (0, 1 * MS, 1)
    assert last.sentence == "rank 1 waited for nobody in all_reduce; the wire took 1 ms"


def test_totals_say_who_waited_and_who_was_waited_for():
    """What one rank waits, another has caused."""
    zero, one = totals(waits(LATE))
    assert (zero.messages, zero.wait_ns, zero.wire_ns, zero.caused_ns) == (1, 6 * MS, 1 * MS, 0)
    assert (one.messages, one.wait_ns, one.wire_ns, one.caused_ns) == (1, 0, 1 * MS, 6 * MS)


@pytest.mark.parametrize(
    ("rank_1_does", "doing"),
    [
        ([span(1, "F", 0, 2), span(1, "B", 2, 9)], "in B"),
        ([span(1, "F", 0, 1)], "between two ops"),
        ([span(1, "F", i, i + 0.6) for i in (0, 3, 6)], "between two ops"),
        ([span(1, "B", i, i + 0.9, where=f"layer{i}") for i in range(9)], "in B layer0"),
        ([span(1, "F", 0, 3), span(1, "F", 6, 8), span(1, "B", 3, 6)], "in F"),
        ([span(1, "wait", 0, 9)], "waiting itself"),
        ([], ""),
    ],
)
def test_the_culprit_was_doing_what_filled_most_of_the_wait(rank_1_does, doing):
    """The label of most time, gaps only if longer than all ops; nothing recorded, nothing said."""
    run = trace(reduce(0, 0, 10), *rank_1_does, reduce(1, 9, 10))
    wait = waits(run)[0]
    assert wait.culprit_was_doing == doing
    assert (f"for rank 1, which was {doing};" if doing else "for rank 1;") in wait.sentence


def test_a_message_queued_behind_another_is_the_links_doing_and_no_ranks():
    """Rank 1 handed its message over in time, but its comm lane was busy: queue, not wait."""
    busy = span(1, "all_gather", 0, 8, peers=(1,), axis="tp", where="weights")
    run = trace(reduce(0, 1, 9), span(1, "F", 0, 9), busy, reduce(1, 8, 9, t_post=0))
    zero = next(w for w in waits(run) if w.rank == 0)
    assert (zero.wait_ns, zero.queue_ns, zero.wire_ns, zero.culprit) == (0, 7 * MS, 1 * MS, 0)
    assert zero.sentence == (
        "rank 0 waited for nobody in all_reduce; 7 ms queued behind other messages; "
        "the wire took 1 ms"
    )


def test_late_queue_and_wire_follow_each_other_and_the_last_to_post_is_the_culprit():
    """Rank 1 posts last (at 5), rank 2 posted at 1 but its lane is free at 8 only."""
    peers = (0, 1, 2)
    ends = [
        reduce(0, 0, 10, peers=peers),
        reduce(1, 5, 10, peers=peers),
        reduce(2, 8, 10, peers=peers, t_post=1 * MS),
    ]
    found = [(w.wait_ns, w.queue_ns, w.wire_ns, w.culprit) for w in waits(trace(*ends, ranks=3))]
    assert found == [
        (5 * MS, 3 * MS, 2 * MS, 1),
        (0, 3 * MS, 2 * MS, 1),
        (0, 0, 2 * MS, 2),
    ]


def test_of_ends_posted_at_one_moment_the_lowest_rank_is_the_last():
    """One rule for the tie, so that every view names the same rank."""
    peers = (0, 1, 2)
    run = trace(*(reduce(r, r, 9, peers=peers, t_post=5 if r else 0) for r in peers), ranks=3)
    assert last_arrival(messages(run)[0]).rank == 1


def test_table_and_player_say_the_same_of_every_recorded_message():
    """Same wait, queue, wire, culprit and what it was doing; the player leaves out the shortest."""
    recorded = places.assets() / "recorded_dp4.json"
    run = load(recorded.name, recorded.read_bytes())
    rows = ordered(run)
    drawn = {rows[w.row]: w for w in causes.waits(rows, message_ids(rows)) if w.row == w.message}
    shortest = run.makespan // 2000
    late = 0
    for wait in waits(run):
        shown = drawn.pop(wait.span, None)
        if shown is None:
            assert wait.wait_ns + wait.queue_ns < shortest
            continue
        assert (shown.late, shown.queue) == (wait.wait_ns, wait.queue_ns)
        assert wait.span.duration - shown.length == wait.wire_ns
        if wait.wait_ns:
            late += 1
            assert rows[shown.culprit].rank == wait.culprit
            doing = wait.culprit_was_doing
            assert (f"for rank {wait.culprit}, which was {doing}") in wait_text(
                replace(shown, end=shown.start + shown.late, queue=0), rows
            )
    assert not drawn and late > 10


@pytest.mark.parametrize("both", [True, False])
def test_send_and_receive_find_each_other_however_peers_are_written(both):
    """`peers` may be (source, destination) or the other end alone."""
    send = span(0, "send", 3, 5, peers=(0, 1) if both else (1,), seq=7)
    recv = span(1, "recv", 1, 5, peers=(0, 1) if both else (0,), seq=7)
    assert messages(trace(send, recv)) == ((send, recv),)
    wait = next(w for w in waits(trace(send, recv)) if w.rank == 1)
    assert (wait.wait_ns, wait.wire_ns, wait.culprit) == (2 * MS, 2 * MS, 0)


def test_messages_of_opposite_direction_and_of_other_numbers_stay_apart():
    """A pair's two directions are two queues; numbers pair the ends within each."""
    there = [span(0, "send", i, i + 1, peers=(0, 1), seq=i) for i in range(2)]
    back = [span(1, "send", i, i + 1, peers=(1, 0), seq=i) for i in range(2)]
    got = [span(1, "recv", i, i + 1, peers=(0, 1), seq=i) for i in range(2)]
    home = [span(0, "recv", i, i + 1, peers=(1, 0), seq=i) for i in range(2)]
    found = set(messages(trace(*there, *back, *got, *home)))
    assert found == {(there[i], got[i]) for i in range(2)} | {(home[i], back[i]) for i in range(2)}


@pytest.mark.parametrize("received", [1, 5])
def test_a_buffered_send_waits_for_nobody(received):
    """It was done before its receive began, or at that very moment."""
    run = trace(
        span(0, "send", 0, 1, peers=(0, 1), seq=0),
        span(1, "recv", received, received + 1, peers=(0, 1), seq=0),
    )
    assert [(w.wait_ns, w.wire_ns) for w in waits(run)] == [(0, MS), (0, MS)]


def test_a_message_without_all_its_ends_is_no_wait():
    """What a missing rank did is unknown, so nothing is said."""
    assert waits(trace(reduce(0, 0, 5))) == ()
    assert len(messages(trace(reduce(0, 0, 5)))) == 1


def test_messages_without_a_number_are_counted():
    """The k-th of a group on one rank meets the k-th on the other."""
    run = trace(*(reduce(r, i + r, i + 3, seq=None) for i in (0, 10) for r in (0, 1)))
    assert [[s.t_start // MS for s in ends] for ends in messages(run)] == [[0, 1], [10, 11]]

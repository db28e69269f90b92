"""Why a rank stands still: each wait has its culprit, and what that was doing."""

from __future__ import annotations

from dataclasses import replace

import player_traces
import pytest
from player_traces import span, trace_of

from parallel_core.analysis.cause import Cause
from parallel_core.trace import Trace
from parallel_core.views.account import account, wait_text
from parallel_core.views.causes import message_ids, ordered, waits

measured = player_traces.measured  # the fixture, for this file


def test_the_last_to_post_is_the_culprit_and_it_says_what_it_was_doing(measured: Trace) -> None:
    """Every wait of a fast rank names rank 2, in a backward, as a straggler."""
    rows = ordered(measured)
    found = waits(rows, message_ids(rows))
    still = [w for w in found if rows[w.row].op == "wait" and rows[w.row].rank != 2]
    assert len(still) == 3
    for wait in still:
        assert rows[wait.culprit].rank == 2
        assert rows[wait.doing].rank == 2 and rows[wait.doing].op == "B"
        assert wait.why == Cause.STRAGGLER and wait.slow == 1.7
        assert wait.late + wait.queue + wait.wire == wait.length


def test_a_late_rank_without_a_core_is_told_from_a_slow_one(measured: Trace) -> None:
    """Where the culprit's op held a core for a part of its time only, the sentence says so."""
    starved = replace(
        measured, spans=tuple(replace(s, cpu_ns=s.cpu_ns // 4) for s in measured.spans)
    )
    assert "(1.7 times its median, on a core for 25 % of it)" in account(starved)
    assert "on a core" not in account(measured)


def test_a_culprit_between_two_ops_is_said_to_be_there() -> None:
    """Its ops fill less than half of what others waited: no op is blamed."""
    meet = {"axis": "dp", "peers": (0, 1), "seq": 0}
    late = [span(1, "F", 0, 10), span(1, "F", 20, 30, index=1), span(1, "F", 96, 99, index=2)]
    rows = ordered(
        trace_of(
            span(0, "all_reduce", 0, 110, **meet), *late, span(1, "all_reduce", 100, 110, **meet)
        )
    )
    (wait,) = waits(rows, message_ids(rows))
    assert wait_text(wait, rows) == "waits 100 ns for rank 1, which was between two ops"


def test_a_message_with_an_end_missing_blames_nobody() -> None:
    """Rank 2's end is not in the trace yet: it may be the one that comes last."""
    meet = {"axis": "dp", "peers": (0, 1, 2), "seq": 0}
    ends = (span(0, "all_reduce", 0, 50, **meet), span(1, "all_reduce", 40, 50, **meet))
    rows = ordered(trace_of(*ends, ranks=3))
    assert waits(rows, message_ids(rows)) == []


def test_a_rank_that_is_last_waits_for_the_wire_alone(measured: Trace) -> None:
    """Rank 2 keeps everybody waiting, so its own wait is the message on its way."""
    rows = ordered(measured)
    (own,) = [
        w
        for w in waits(rows, message_ids(rows))
        if rows[w.row].op == "wait" and rows[w.row].rank == 2
    ]
    assert own.why == Cause.WIRE and own.late == 0
    assert wait_text(own, rows) == "waits 1.10 ms for all_reduce bucket3, on the wire"


@pytest.mark.parametrize(
    ("send", "receive", "why"),
    [((40, 50), (10, 50), Cause.LATE_SENDER), ((10, 50), (40, 50), Cause.LATE_RECEIVER)],
)
def test_a_late_sender_and_a_late_receiver_are_told_apart(
    send: tuple[int, int], receive: tuple[int, int], why: Cause
) -> None:
    """The end that was posted first waits for the other, on whichever side it is."""
    rows = ordered(
        trace_of(
            span(0, "send", *send, peers=(0, 1), seq=0),
            span(1, "recv", *receive, peers=(0, 1), seq=0),
        )
    )
    (wait,) = waits(rows, message_ids(rows))
    assert (wait.why, wait.length) == (why, 30)


def test_a_buffered_send_does_not_wait_for_its_receiver() -> None:
    """It was done before the receive was posted."""
    send = span(0, "send", 10, 20, peers=(0, 1), seq=0)
    receive = span(1, "recv", 40, 45, peers=(0, 1), seq=0)
    rows = ordered(trace_of(send, receive))
    assert waits(rows, message_ids(rows)) == []


def test_the_two_directions_of_a_pair_are_two_messages() -> None:
    """0 -> 1 and 1 -> 0 with the same number do not meet."""
    rows = ordered(
        trace_of(
            span(0, "send", 0, 5, peers=(0, 1), seq=0),
            span(1, "recv", 0, 5, peers=(0, 1), seq=0),
            span(1, "send", 5, 9, peers=(1, 0), seq=0),
            span(0, "recv", 5, 9, peers=(1, 0), seq=0),
        )
    )
    ids = message_ids(rows)
    pairs = sorted((ids[row], rows[row].rank, rows[row].op) for row in range(4))
    assert pairs == [(0, 0, "send"), (0, 1, "recv"), (1, 0, "recv"), (1, 1, "send")]


def test_a_busy_link_is_a_cause_of_its_own() -> None:
    """All ends were posted long ago, but an earlier message held the lane."""
    spans = []
    for rank in (0, 1):
        meet = {"axis": "dp", "peers": (0, 1)}
        spans += [
            span(rank, "all_reduce", 0, 80, index=0, seq=0, **meet),
            span(rank, "all_reduce", 80, 90, index=1, seq=1, t_post=10, **meet),
            span(rank, "F", 0, 20, index=2),
            span(rank, "wait", 20, 90, index=3, deps=(1,)),
        ]
    rows = ordered(trace_of(*spans))
    found = [w for w in waits(rows, message_ids(rows)) if rows[w.row].op == "wait"]
    assert [(w.why, w.late, w.queue, w.wire) for w in found] == [(Cause.LINK_BUSY, 0, 60, 10)] * 2


def test_a_first_gap_is_fill_and_an_unexplained_gap_is_no_wait() -> None:
    """A stage that has had nothing yet is filling; a pause that no message explains is not told."""
    rows = ordered(
        trace_of(
            span(0, "F", 0, 10, index=0),
            span(0, "send", 10, 20, index=1, peers=(0, 1), seq=0, deps=(0,)),
            span(1, "recv", 10, 20, index=0, peers=(0, 1), seq=0),
            span(1, "F", 20, 30, index=1, deps=(0,)),
            span(1, "F", 50, 60, index=2, deps=(1,)),
        )
    )
    found = waits(rows, message_ids(rows))
    assert [(w.why, w.start, w.end) for w in found] == [(Cause.FILL, 0, 20)]

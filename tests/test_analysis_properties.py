"""What holds of the analysis for every trace."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from analysis_traces import MS, reduce, span, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.exposed import exposed, minus, union
from parallel_core.analysis.waits import waits
from parallel_core.meetings import last_arrival, messages
from parallel_core.trace import Span, Trace

calm = settings(deadline=None)  # a shared machine may stall for a moment

# Properties -------------------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> Trace:
    """A run that could have happened: work, a posted all-reduce, more work under it, a WAIT."""
    ranks = draw(st.integers(1, 4))
    compute, comm, index = [0] * ranks, [0] * ranks, [0] * ranks
    spans: list[Span] = []
    times = st.integers(0, 20)

    def add(rank: int, op: str, begin: int, end: int, **more: Any) -> int:
        spans.append(span(rank, op, begin / MS, end / MS, index=index[rank], **more))
        index[rank] += 1
        return index[rank] - 1

    for number in range(draw(st.integers(1, 5))):
        posted, deps, wire = [0] * ranks, [0] * ranks, draw(times)
        for rank in range(ranks):
            work = draw(times)
            deps[rank] = add(rank, "B", compute[rank], compute[rank] + work)
            posted[rank] = compute[rank] = compute[rank] + work
        begun = [max(posted[r], comm[r]) for r in range(ranks)]
        done = max(begun) + wire
        for rank in range(ranks):
            comm[rank] = done
            message = add(
                rank, "all_reduce", begun[rank], done, axis="dp", peers=tuple(range(ranks)),
                seq=number, t_post=posted[rank], deps=(deps[rank],),
            )  # fmt: skip
            under = draw(times)
            add(rank, "F", compute[rank], compute[rank] + under)
            compute[rank] += under
            add(rank, "wait", compute[rank], max(compute[rank], done), deps=(message,))
            compute[rank] = max(compute[rank], done)
    return trace(*spans, ranks=ranks)


@st.composite
def noise(draw: st.DrawFn) -> Trace:
    """Any spans at all: overlapping, with ends missing, with deps that lead nowhere."""
    number = st.integers(0, 30)
    spans = []
    for index in range(draw(st.integers(0, 14))):
        op = draw(st.sampled_from(["F", "wait", "all_reduce", "send", "recv", "odd"]))
        begin, rank = draw(number), draw(st.integers(0, 2))
        peers = draw(st.sampled_from([(), (0, 1), (1, 0), (0, 1, 2), (2,)]))
        spans.append(
            span(
                rank, op, begin / MS, (begin + draw(number)) / MS, index=index, peers=peers,
                seq=draw(st.sampled_from([None, 0, 1])), t_post=draw(st.integers(0, begin)),
                deps=tuple(draw(st.lists(st.integers(0, 14), max_size=2))),
                lane=draw(st.sampled_from(["compute", "comm"])),
            )
        )  # fmt: skip
    return trace(*spans, ranks=3)


@calm
@given(st.one_of(runs(), noise()))
def test_wait_and_wire_are_never_negative_and_fill_the_message(run):
    """wait, queue, wire >= 0; wait + queue + wire = duration."""
    for wait in waits(run):
        assert min(wait.wait_ns, wait.queue_ns, wait.wire_ns) >= 0
        assert wait.wait_ns + wait.queue_ns + wait.wire_ns == wait.span.duration


def test_a_message_that_took_no_time_was_all_waiting():
    """An early rank's message ends the moment the last one comes."""
    run = trace(reduce(0, 0, 4), reduce(1, 4, 4))
    assert [(w.wait_ns, w.wire_ns) for w in waits(run)] == [(4 * MS, 0), (0, 0)]


@calm
@given(runs())
def test_the_wire_of_a_collective_is_the_same_on_all_ranks_and_its_culprit_never_waits(run):
    """Everybody starts to move when the last lane has taken it up; the last to post never waits."""
    for ends in messages(run):
        of_these = [w for w in waits(run) if w.span in ends]
        assert len({w.wire_ns for w in of_these}) == 1
        culprit = last_arrival(ends).rank
        assert all(w.culprit in (culprit, w.rank) for w in of_these)
        assert next(w for w in of_these if w.rank == culprit).wait_ns == 0
        assert min(w.queue_ns for w in of_these) == 0


@calm
@given(st.one_of(runs(), noise()))
def test_hidden_and_exposed_are_all_communication_and_the_rest_is_the_window(run):
    """exposed + hidden = communication; compute + exposed + idle = window, none negative."""
    for use in exposed(run).ranks:
        assert use.exposed_ns + use.hidden_ns == use.comm_ns
        assert use.compute_ns + use.exposed_ns + use.idle_ns == use.window_ns
        parts = (use.compute_ns, use.exposed_ns, use.hidden_ns, use.idle_ns, use.internal_idle_ns)
        assert min(parts) >= 0


@calm
@given(st.one_of(runs(), noise()))
def test_the_pieces_of_the_critical_path_tile_the_makespan(run):
    """They follow each other without gap or overlap, each inside its span."""
    pieces = critical_path(run).pieces
    assert sum(p.ns for p in pieces) == run.makespan
    assert all(one.end == two.begin for one, two in pairwise(pieces))
    for piece in pieces:
        if piece.span is not None:
            assert piece.span.t_start <= piece.begin < piece.end <= piece.span.t_done
    if pieces:
        assert (pieces[0].begin, pieces[-1].end) == (run.start, run.start + run.makespan)
        assert sum(critical_path(run).shares.values()) == pytest.approx(1)


@calm
@given(runs())
def test_the_critical_path_of_a_full_record_explains_everything(run):
    """At most the makespan, at least the longest span; and here no moment is unexplained."""
    path = critical_path(run)
    assert max(s.duration for s in run.spans) <= path.length <= run.makespan
    assert path.length == run.makespan


@calm
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9))), st.data())
def test_minus_agrees_with_counting(pairs, data):
    """The difference of two unions, against sets of integers."""
    cut = data.draw(st.integers(0, len(pairs)))
    one, two = (
        [span(0, "F", a / MS, (a + n) / MS) for a, n in part] for part in (pairs[:cut], pairs[cut:])
    )
    points = [set(), set()]
    for store, part in zip(points, (one, two), strict=True):
        for s in part:
            store |= set(range(s.t_start, s.t_done))
    left = minus(union(one), union(two))
    assert {x for a, b in left for x in range(a, b)} == points[0] - points[1]
    assert sum(b - a for a, b in left) == len(points[0] - points[1])

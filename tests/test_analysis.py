"""What a trace tells: answers computable on paper, and what holds for every trace."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core import places
from parallel_core.analysis.compare import compare, medians
from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.exposed import exposed, minus, union, without_warmup
from parallel_core.analysis.stuck import POSTED, STARTED, stuck
from parallel_core.analysis.waits import totals, waits
from parallel_core.cases import program_of
from parallel_core.importers.load import load
from parallel_core.meetings import last_arrival, messages
from parallel_core.plan import Plan
from parallel_core.quantities import time_text
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.trace import Kind, Provenance, Span, Trace
from parallel_core.views import causes
from parallel_core.views.account import wait_text
from parallel_core.views.causes import message_ids, ordered
from parallel_core.views.tables import (
    compare_rows,
    median_rows,
    path_rows,
    span_rows,
    total_rows,
    use_rows,
    wait_rows,
)

MS = 1_000_000
GROUP = (0, 1)


def span(rank: int, op: str, begin: float, end: float, **more: Any) -> Span:
    """A span in milliseconds; on the comm lane if it has peers."""
    facts = {
        "rank": rank,
        "step": 0,
        "index": 0,
        "op": op,
        "lane": "comm" if more.get("peers") else "compute",
        "t_post": round(begin * MS),
        "t_start": round(begin * MS),
        "t_done": round(end * MS),
        **more,
    }
    return Span(**facts)


def trace(*spans: Span, ranks: int = 2) -> Trace:
    return Trace(spans, Provenance(kind=Kind.MODELLED, title="by hand"), ranks)


def reduce(rank: int, begin: float, end: float, **more: Any) -> Span:
    return span(rank, "all_reduce", begin, end, **{"axis": "dp", "peers": GROUP, "seq": 0, **more})


# Rank 0 computes 4 ms and waits for rank 1, which computes 10; the wire takes 1.
LATE = trace(
    span(0, "F", 0, 4, where="layer0", mb=0),
    reduce(0, 4, 11, index=1, deps=(0,)),
    span(0, "wait", 4, 11, index=2, deps=(1,)),
    span(0, "O", 11, 13, index=3, deps=(1,)),
    span(1, "F", 0, 10, where="layer0", mb=0),
    reduce(1, 10, 11, index=1, deps=(0,)),
    span(1, "wait", 10, 11, index=2, deps=(1,)),
    span(1, "O", 11, 12, index=3, deps=(1,)),
)


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


def test_the_critical_path_leaves_the_waiting_rank_for_the_one_it_waited_for():
    """Rank 1's forward, the wire, rank 0's longer optimizer: 10 + 1 + 2 of 13 ms."""
    path = critical_path(LATE)
    pieces = [(p.span.rank, p.span.op, p.ns / MS) for p in path.pieces if p.span]
    assert pieces == [(1, "F", 10), (0, "all_reduce", 1), (0, "O", 2)]
    assert path.shares == pytest.approx({"F": 10 / 13, "O": 2 / 13, "all_reduce": 1 / 13})
    assert "it changes rank once" in path.account


def test_time_that_nothing_explains_is_a_gap_of_the_path():
    """Between F and B nothing was recorded; the path says so and does not invent a cause."""
    path = critical_path(trace(span(0, "F", 0, 2), span(0, "B", 5, 6, index=1)))
    assert [(p.span and p.span.op, p.ns / MS) for p in path.pieces] == [
        ("F", 2),
        (None, 3),
        ("B", 1),
    ]
    assert path.shares["nothing recorded"] == 0.5
    assert critical_path(trace()).pieces == ()


def test_exposed_and_hidden_on_paper():
    """Communication 2-6 under backward 0-5: 3 ms hidden, 1 exposed; a WAIT is no compute."""
    run = trace(
        span(0, "B", 0, 5), reduce(0, 2, 6), span(0, "wait", 5, 6), span(0, "O", 7, 10), ranks=1
    )
    (use,) = exposed(run).ranks
    assert [n / MS for n in (use.window_ns, use.compute_ns, use.comm_ns)] == [10, 8, 4]
    assert [n / MS for n in (use.hidden_ns, use.exposed_ns, use.idle_ns)] == [3, 1, 1]
    assert use.utilisation == 0.8


def test_a_message_inside_a_compute_op_is_exposed():
    """A layer that stands still for its own all-reduce does not compute meanwhile."""
    run = trace(span(0, "F", 0, 10), reduce(0, 4, 6, lane="compute"), ranks=1)
    (use,) = exposed(run).ranks
    assert (use.compute_ns, use.exposed_ns, use.hidden_ns) == (8 * MS, 2 * MS, 0)


@pytest.mark.parametrize(("p", "m"), [(2, 1), (4, 8), (3, 5)])
def test_the_bubble_of_a_pipeline_with_free_messages(p, m):
    """(p-1)/(m+p-1) of the total, (p-1)/m of the ideal time; none of it inside a rank."""
    run = trace(
        *(span(s, "F", s + i, s + i + 1, mb=i) for s in range(p) for i in range(m)), ranks=p
    )
    use = exposed(run)
    assert use.bubble_of_total == pytest.approx((p - 1) / (m + p - 1))
    assert use.bubble_of_ideal == pytest.approx((p - 1) / m)
    assert all(r.internal_idle_ns == 0 for r in use.ranks)


def test_warmup_steps_are_left_out_but_never_all():
    """The first steps go, the last stays."""
    run = trace(*(span(0, "F", 10 * i, 10 * i + 1 + i, step=i) for i in range(3)), ranks=1)
    assert without_warmup(run, 1).steps == (1, 2)
    assert without_warmup(run, 9).steps == (2,)
    assert exposed(run, warmup=2).ranks[0].compute_ns == 3 * MS


def test_comparison_names_what_got_slower():
    """Medians over steps, aligned by rank, op, where and microbatch; one slow step is ignored."""

    def run(times: list[int], op: str) -> Trace:
        spans = [
            span(0, "F", 100 * i, 100 * i + t, where="layer0", mb=0, step=i)
            for i, t in enumerate(times)
        ]
        return trace(*spans, span(0, op, 300, 301, step=2, memory=len(op)), ranks=1)

    both = compare(run([10, 10, 90], "O"), run([20, 20, 20], "add"))
    assert [(r.label, r.ratio) for r in both.rows] == [
        ("rank 0 F layer0 mb0", 2.0),
        ("rank 0 add", None),
        ("rank 0 O", None),
    ]
    assert [r.label for r in both.slower] == ["rank 0 F layer0 mb0"]
    assert (both.before.peak_bytes, both.after.peak_bytes, both.after.steps) == (1, 3, 3)
    assert "most was lost in rank 0 F layer0 mb0, +10 ms" in both.account
    assert medians(run([10, 10, 90], "O"))[0, "F", "layer0", 0].count == 3


def test_a_hang_blames_the_rank_that_posted_least():
    """Two wait in number 5, the third never posted it."""
    group = (0, 1, 2)
    ok = [reduce(r, 0, 1, peers=group, seq=4) for r in group]
    hung = [reduce(r, 2, 9, peers=group, seq=5, where=w) for r, w in ((0, POSTED), (1, STARTED))]
    (hang,) = stuck(trace(*ok, *hung, ranks=3))
    assert (hang.seq, hang.waiting, hang.culprits, hang.silent) == (5, (0, 1), (2,), ())
    assert hang.sentence == (
        "ranks 0, 1 stand in all_reduce number 5 of dp; rank 2 never posted it: look there first"
    )
    assert stuck(trace(*ok, ranks=3)) == ()


def test_a_hang_that_follows_from_another_comes_second():
    """Rank 0 waits for rank 1, but rank 1 waits for rank 2: the root is rank 2."""
    recv = span(0, "recv", 0, 9, peers=(1, 0), seq=0, where=POSTED)
    waiting = reduce(1, 1, 9, peers=(1, 2), where=POSTED)
    alive = span(2, "F", 0, 1)
    first, second = stuck(trace(recv, waiting, alive, ranks=3))
    assert (first.culprits, second.culprits) == ((2,), (1,))


def test_a_hang_without_a_culprit_says_so():
    """All posted, or two operations under one number, or no record of the missing rank."""
    all_posted = [reduce(r, 0, 9, where=STARTED) for r in (0, 1)]
    assert "look at the link" in stuck(trace(*all_posted))[0].sentence
    mixed = [
        all_posted[0],
        span(1, "all_gather", 0, 9, peers=GROUP, axis="dp", seq=0, where=POSTED),
    ]
    assert "they disagree: rank 0 posted all_reduce, rank 1 posted all_gather" in (
        stuck(trace(*mixed))[0].sentence
    )
    assert stuck(trace(all_posted[0]))[0].silent == (1,)


@pytest.mark.parametrize(("method", "microbatches"), [("naive", 1), ("bucketed", 2)])
def test_in_a_simulated_step_every_nanosecond_has_a_recorded_cause(method, microbatches):
    """The critical path of a data-parallel program explains all of its makespan."""
    plan = Plan.of(dp=3, dp_method=method, microbatches=microbatches, global_batch=6, layers=2)
    run = simulate(program_of(plan), model_cost(plan))
    path = critical_path(run)
    assert path.length == run.makespan > 0


def test_tables_hold_what_the_analysis_found():
    """One dict a row, units in the column names."""
    assert span_rows(LATE, limit=1)[0] | {"duration (ms)": 4.0} == span_rows(LATE)[0]
    assert wait_rows(waits(LATE))[0]["waited for"] == "rank 1"
    assert total_rows(totals(waits(LATE)))[1]["others waited for it (ms)"] == 6.0
    assert use_rows(exposed(LATE))[0]["exposed (ms)"] == 7.0
    assert median_rows(LATE)[0]["median (ms)"] == 10.0
    assert compare_rows(compare(LATE, LATE))[0]["ratio"] == 1.0
    assert [row["start (ms)"] for row in path_rows(critical_path(LATE), LATE.start)] == [0, 10, 11]


def test_durations_read_well():
    assert [time_text(ns) for ns in (7, 1500, 3.1 * MS, 2e9)] == [
        "7 ns",
        "1.50 µs",
        "3.10 ms",
        "2 s",
    ]


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

"""Every idle slot has a cause: nothing is lost, and schedules on paper are as in theory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from idle_traces import BEAT, beats, calm, conserves, ran, span, trace

from parallel_core.analysis.bubble import bubble
from parallel_core.analysis.cause import LATE, Cause
from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.idle import idle, totals
from parallel_core.analysis.logical import logical
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.simulate import simulate
from parallel_core.trace import Trace

ORDERS = st.tuples(st.sampled_from(sorted(SCHEDULES)), st.integers(2, 5), st.integers(1, 8))
TIME = st.integers(1, 9)


def drawn(data: st.DataObject) -> Trace:
    """A schedule with uneven times, on any of the four kinds of messages that runs through."""
    name, p, m = data.draw(ORDERS)
    virtual = SCHEDULES[name].virtual
    v, m = (virtual[0], m) if virtual else (2, p * m)
    try:
        order = SCHEDULES[name].of(Job(p=p, m=m, v=v))
    except ValueError:  # this p and m are none the method allows
        order = SCHEDULES["gpipe"].of(Job(p=p, m=m))
    each = st.lists(TIME.map(float), min_size=p, max_size=p).map(tuple)
    comm = data.draw(st.sampled_from([0.0, 0.5, 3.0]))
    times = Times(f=data.draw(each), i=data.draw(each), w=data.draw(each), comm=comm)
    blocking, rendezvous = data.draw(st.booleans()), data.draw(st.booleans())
    cost = PipelineCost.of(order, times)
    try:
        return simulate(lower(order, blocking=blocking), cost, rendezvous=rendezvous)
    except ValueError:  # blocking rendezvous sends deadlock under some orders
        return simulate(lower(order), cost)


@calm
@given(st.data())
def test_work_and_causes_add_up_to_the_makespan(data):
    """Any schedule, any times, buffered or rendezvous, blocking or not: not a nanosecond off."""
    run = drawn(data)
    found = idle(run)
    conserves(run, found)
    assert Cause.UNKNOWN not in {slot.cause for slot in found}


@calm
@given(st.data())
def test_in_a_simulated_pipeline_no_rank_is_idle_by_its_own_delay(data):
    """The simulator starts what is ready: the lane is in order, so only messages hold it up."""
    own = {Cause.CHOICE, Cause.OVERHEAD}
    assert not own & {slot.cause for slot in idle(drawn(data))}


@calm
@given(st.data())
def test_the_critical_path_explains_every_moment_of_a_pipeline(data):
    """Tasks and wires from the first start to the last end; a receive counts its wire alone."""
    run = drawn(data)
    path = critical_path(run)
    assert path.length == run.makespan
    assert all(p.span and p.ns <= p.span.duration for p in path.pieces)
    wire = sum(p.ns for p in path.pieces if p.span and p.span.op in ("send", "recv"))
    if run.provenance.backend.endswith("messages 0 a microbatch and rank"):
        assert wire == 0


@st.composite
def noise(draw: st.DrawFn) -> Trace:
    """Any spans at all: overlapping, with ends missing, with deps that lead nowhere."""
    number, lanes = st.integers(0, 30), ["compute", "comm", "to_next", "from_prev"]
    spans = []
    for index in range(draw(st.integers(0, 14))):
        begin, rank = draw(number), draw(st.integers(0, 2))
        spans.append(
            span(
                rank,
                draw(st.sampled_from(["F", "B", "wait", "all_reduce", "send", "recv", "odd"])),
                begin / BEAT,
                (begin + draw(number)) / BEAT,
                index=index,
                step=draw(st.integers(0, 1)),
                peers=draw(st.sampled_from([(), (0, 1), (1, 0), (0, 1, 2), (2,)])),
                seq=draw(st.sampled_from([None, 0, 1])),
                t_post=draw(st.integers(0, begin)),
                deps=tuple(draw(st.lists(st.integers(0, 14), max_size=2))),
                lane=draw(st.sampled_from(lanes)),
            )
        )
    return trace(*spans, ranks=3)


@calm
@given(noise())
def test_whatever_the_spans_nothing_is_lost_and_everything_is_said(run):
    """Overlaps, missing ends, circles: slots still tile the lane, and every one has a sentence."""
    found = idle(run)
    conserves(run, found)
    assert all(slot.sentence for slot in found)
    assert min((one.late_ns for one in logical(run)), default=0) >= 0
    assert bubble(run, found).bubble_fraction <= 1


@pytest.mark.parametrize("name", ["1f1b", "gpipe"])
def test_fill_and_drain_of_every_rank(name):
    """F 1, B 2, p 4: rank r fills r beats and drains 2r; rank 0 does neither."""
    sums = totals(idle(ran(name, 4, 8)))
    for rank in range(4):
        assert sums[rank].get(Cause.FILL, 0) == rank * BEAT
        assert sums[rank].get(Cause.DRAIN, 0) == 2 * rank * BEAT
        # all bubbles are (p-1)(F+B) = 9 beats: what is left of them is inside
        assert sums[rank].get(Cause.LATE_SENDER, 0) == (9 - 3 * rank) * BEAT
        assert set(sums[rank]) <= {Cause.FILL, Cause.DRAIN, Cause.LATE_SENDER}


def test_the_steady_slots_of_1f1b_wait_for_the_next_stage():
    """Every slot inside waits for a backward from the rank after it; what it was is said."""
    found = idle(ran("1f1b", 4, 8))
    inside = [slot for slot in found if slot.inside]
    assert all(slot.cause is Cause.LATE_SENDER and slot.blame == slot.rank + 1 for slot in inside)
    assert all(slot.awaited and slot.awaited.label.startswith("B stage") for slot in inside)
    assert beats(found, 1) == [
        ("fill", 0, 1),
        ("late sender", 4, 8),
        ("late sender", 25, 26),
        ("late sender", 28, 29),
        ("drain", 31, 33),
    ]
    words = [slot.sentence for slot in found if slot.rank == 1]
    assert words[1] == (
        "waits 4 s for B stage2 mb0 from rank 2; rank 2 was still in it; "
        "F stage1 mb3 was ready, the order runs it later"
    )
    assert words[0] == "fills for 1 s: F stage1 mb0 needs F stage0 mb0 from rank 0"
    assert words[-1] == "drains for 2 s: its work of the step is done"


def test_a_culprit_that_waits_itself_is_followed_to_one_that_works():
    """GPipe's rank 0 waits 9 beats for rank 1, which waits for rank 2, which waits for rank 3."""
    (slot,) = [s for s in idle(ran("gpipe", 4, 8, ti=9, tw=1)) if s.rank == 0 and s.inside]
    assert (slot.blame, slot.root, slot.doing) == (1, 2, None)
    assert slot.work is not None and slot.work.label == "B stage2 mb0"
    assert "rank 1 waited itself, in the end for rank 2, which was in B stage2" in slot.sentence


def test_what_the_late_sender_did_instead_is_named():
    """ZB-like: rank 1 runs W1 before the backward that rank 0 waits for."""
    order = Order.parse("F0 F1 I0 I1 W0 W1\nF0 I0 W0 F1 I1 W1")
    run = simulate(lower(order), PipelineCost.of(order, Times.even(2, tw=4.0)))
    found = [s for s in idle(run) if s.rank == 0 and s.inside]
    assert [s.sentence for s in found] == [
        "waits 1 s for I stage1 mb0 from rank 1; rank 1 was still in it",
        "waits 5 s for I stage1 mb1 from rank 1; rank 1 was in W stage1 mb0; "
        "W stage0 mb0 was ready, the order runs it later",
    ]


def test_a_slow_rank_is_named_with_how_slow_it_is():
    """Rank 2 takes 1.5 times as long: whoever waits for it waits for a straggler, by 1.5."""
    found = idle(ran("1f1b", 4, 8, slow={2: 1.5}))
    named = [s for s in found if s.cause is Cause.STRAGGLER]
    assert {s.rank for s in named} == {0, 1, 3}
    assert {(s.root, s.slow) for s in named} == {(2, 1.5)}
    assert all("(1.5 times the median of the ranks)" in s.sentence for s in named)
    # Nobody else is slow, so nobody else is called so.
    assert all(s.cause is not Cause.STRAGGLER for s in found if s.rank == 2)
    direct = [s for s in found if s.cause in LATE and s.blame == 2 and s.doing]
    assert direct == []


def test_even_ranks_have_no_straggler_and_a_little_slower_is_none():
    """10 % is no straggler."""
    for slow in ({}, {2: 1.1}):
        assert Cause.STRAGGLER not in {s.cause for s in idle(ran("1f1b", 4, 8, slow=slow))}


def test_the_wire_is_apart_from_the_wait():
    """Latency 0.25: the part of a wait in which the message was under way is the wire's."""
    run = ran("1f1b", 4, 4, tcomm=0.25)
    found = idle(run)
    wire = [s for s in found if s.cause is Cause.WIRE]
    assert wire and {s.ns for s in wire} == {BEAT // 4}
    for slot in wire:
        assert slot.end in {s.t_done for s in run.spans if s.op == "recv" and s.rank == slot.rank}
    assert beats(found, 0)[:2] == [("late sender", 4, 11.25), ("on the wire", 11.25, 11.5)]
    assert Cause.WIRE not in {s.cause for s in idle(ran("1f1b", 4, 4))}


def test_a_blocking_rendezvous_send_stands_for_its_late_receiver():
    """Rank 1 takes a little longer, so rank 0's second send finds it in its first forward."""
    found = idle(ran("gpipe", 2, 3, blocking=True, rendezvous=True, slow={1: 1.1}))
    late = [s for s in found if s.cause is Cause.LATE_RECEIVER]
    assert [(s.rank, s.blame, s.ns) for s in late] == [(0, 1, BEAT // 10)] * 2
    assert [s.sentence for s in late] == [
        "waits 100 ms for rank 1 to take send stage0 mb1; rank 1 was in F stage1 mb0",
        "waits 100 ms for rank 1 to take send stage0 mb2; rank 1 was in F stage1 mb1",
    ]
    buffered = idle(ran("gpipe", 2, 3, blocking=True, slow={1: 1.1}))
    assert Cause.LATE_RECEIVER not in {s.cause for s in buffered}

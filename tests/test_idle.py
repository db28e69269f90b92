"""What the trace tells of a pipeline: every idle slot has a cause, and nothing is left over."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.analysis.bubble import bubble, in_flight
from parallel_core.analysis.cause import LATE, Cause, Idle
from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.idle import idle, totals
from parallel_core.analysis.logical import latest, logical
from parallel_core.cases import program_of
from parallel_core.mesh import Mesh
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.figures import figures_of
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.trace import Kind, Provenance, Span, Trace
from parallel_core.views.causes import message_ids, ordered, waits

BEAT = 1_000_000_000
calm = settings(deadline=None, max_examples=60)  # a shared machine may stall for a moment


def ran(name: str, p: int, m: int, **more: Any) -> Trace:
    """A schedule of the table on paper: `v`, `blocking`, `rendezvous`, all else goes to Times."""
    order = SCHEDULES[name].of(Job(p=p, m=m, v=more.pop("v", 1)))
    blocking, rendezvous = more.pop("blocking", False), more.pop("rendezvous", False)
    cost = PipelineCost.of(order, Times.even(p, **more))
    return simulate(lower(order, blocking=blocking), cost, rendezvous=rendezvous)


def span(rank: int, op: str, begin: float, end: float, **more: Any) -> Span:
    """A span in beats; messages are on the lane of their direction unless told otherwise."""
    lanes = {"send": "to_next", "recv": "from_prev", "all_reduce": "comm"}
    facts = {
        "rank": rank,
        "step": 0,
        "index": 0,
        "op": op,
        "lane": lanes.get(op, "compute"),
        "t_post": round(begin * BEAT),
        "t_start": round(begin * BEAT),
        "t_done": round(end * BEAT),
        **more,
    }
    return Span(**facts)


def trace(*spans: Span, ranks: int = 2, kind: Kind = Kind.MODELLED) -> Trace:
    return Trace(spans, Provenance(kind=kind, title="by hand"), ranks)


def beats(found: tuple[Idle, ...], rank: int) -> list[tuple[str, float, float]]:
    """(cause, start, end) of the slots of a rank, in beats."""
    return [(s.cause.value, s.start / BEAT, s.end / BEAT) for s in found if s.rank == rank]


def conserves(run: Trace, found: tuple[Idle, ...]) -> None:
    """Work and idle slots tile the makespan of each rank; the slots are in order and apart."""
    work = {use.rank: use.compute_ns for use in exposed(run).ranks}
    idle_ns = {rank: sum(causes.values()) for rank, causes in totals(found).items()}
    for rank, ns in work.items():
        assert ns + idle_ns.get(rank, 0) == run.makespan
    for one, two in pairwise(found):
        assert one.rank < two.rank or one.end <= two.start
    assert all(slot.start < slot.end for slot in found)


# ---- conservation

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


# ---- schedules on paper


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


# ---- by hand


def test_a_message_behind_another_is_the_links_doing():
    """Rank 0's second message is sent at 2 but its lane carries the first until 5."""
    run = trace(
        span(0, "F", 0, 1, where="stage0", mb=0),
        span(0, "F", 1, 2, where="stage0", mb=1, index=2),
        span(0, "send", 1, 5, index=1, deps=(0,), peers=(0, 1), seq=0),
        span(0, "send", 5, 6, index=3, deps=(2,), peers=(0, 1), seq=1, t_post=2 * BEAT),
        span(1, "recv", 0, 5, peers=(0, 1), seq=0),
        span(1, "F", 5, 5.5, index=1, deps=(0,), where="stage1", mb=0),
        span(1, "recv", 5, 7, index=2, peers=(0, 1), seq=1, t_post=0, where="stage0", mb=1),
        span(1, "F", 7, 8, index=3, deps=(2,), where="stage1", mb=1),
        span(1, "F", 8, 9, index=4, where="stage1", mb=2),
    )
    assert beats(idle(run), 1) == [("fill", 0, 5), ("on the wire", 5.5, 7)]
    later = replace(run.spans[3], t_start=6 * BEAT, t_done=7 * BEAT, source="waited for link 0 > 1")
    queued = replace(run, spans=(*run.spans[:3], later, *run.spans[4:]))
    found = [s for s in idle(queued) if s.rank == 1]
    assert beats(tuple(found), 1)[1:] == [("link busy", 5.5, 6), ("on the wire", 6, 7)]
    assert found[1].sentence.startswith("waits 500 ms: recv stage0 mb1 waited for link 0 > 1")
    plain = replace(queued, spans=tuple(replace(s, source="") for s in queued.spans))
    said = next(s for s in idle(plain) if s.cause is Cause.LINK_BUSY).sentence
    assert "queued behind other messages of rank 0" in said


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (Kind.MEASURED, Cause.OVERHEAD),
        (Kind.RECORDED, Cause.OVERHEAD),
        (Kind.MODELLED, Cause.CHOICE),
    ],
)
def test_a_delay_of_its_own_is_overhead_in_a_run_and_a_choice_on_paper(kind, cause):
    """The second forward had everything and began 2 beats late; paper has no operating system."""
    run = trace(span(0, "F", 0, 1), span(0, "F", 3, 4, index=1, deps=(0,)), ranks=1, kind=kind)
    (slot,) = idle(run)
    assert (slot.cause, slot.start, slot.end) == (cause, BEAT, 3 * BEAT)
    assert slot.sentence == (
        "begins F 2 s after all that it needs was there"
        if cause is Cause.OVERHEAD
        else "stands 2 s by its own order: all that F needs was there"
    )


def test_a_receive_that_its_own_rank_asked_for_late_is_nobody_elses_fault():
    """Sent at 1, asked for at 3: two beats of overhead, then the wire."""
    run = trace(
        span(0, "F", 0, 1),
        span(0, "send", 1, 4, index=1, deps=(0,), peers=(0, 1), seq=0),
        span(1, "F", 0, 1),
        span(1, "recv", 3, 4, index=1, peers=(0, 1), seq=0),
        span(1, "F", 4, 5, index=2, deps=(1,)),
        kind=Kind.MEASURED,
    )
    assert beats(idle(run), 1) == [("overhead", 1, 3), ("on the wire", 3, 4)]


def test_the_player_gives_every_wait_the_same_cause():
    """Hatch by hatch: what a figure draws on a compute lane is what the analysis found there."""
    run = ran("1f1b", 4, 8, slow={2: 1.5}, tcomm=0.25)
    slots = {(s.rank, s.start): s for s in idle(run)}
    rows = ordered(run)
    drawn = [w for w in waits(rows, message_ids(rows)) if rows[w.row].lane == "compute"]
    assert len(drawn) > 20
    for wait in drawn:
        slot = slots[rows[wait.row].rank, wait.start]
        assert (wait.why, wait.slow) == (slot.cause, slot.slow)
        if wait.root >= 0:
            assert rows[wait.root] is slot.work
    assert {w.why for w in drawn} == {Cause.FILL, Cause.LATE_SENDER, Cause.STRAGGLER}


def test_a_wait_for_what_the_next_task_does_not_need_is_the_schedules_choice():
    """The WAIT stands for the all-reduce; the backward after it needs only the forward."""
    meet = {"peers": (0, 1), "axis": "dp", "seq": 0}
    both = [
        [
            *[span(rank, "F", at, at + 1) for at in range(1 + rank)],
            span(rank, "all_reduce", 1 + rank, 4, index=1, deps=(0,), **meet),
            span(rank, "wait", 1 + rank, 4, index=2, deps=(1,)),
            span(rank, "B", 4, 5, index=3, deps=(0,)),
        ]
        for rank in (0, 1)
    ]
    found = idle(trace(*both[0], *both[1]))
    assert {s.cause for s in found} == {Cause.CHOICE}
    assert found[0].sentence == "stands 3 s by its own order: what follows does not need all_reduce"
    needs = [replace(s, deps=(0, 1)) if s.op == "B" else s for s in (*both[0], *both[1])]
    assert beats(idle(trace(*needs)), 0) == [("late peer", 1, 2), ("on the wire", 2, 4)]


def test_where_nothing_is_recorded_nobody_is_blamed():
    """No deps in the trace: no cause. With the program they are known."""
    run = ran("1f1b", 3, 4)
    bare = replace(run, spans=tuple(replace(s, deps=()) for s in run.spans))
    inside = {s.cause for s in idle(bare) if s.inside}
    assert inside == {Cause.UNKNOWN}
    program = lower(SCHEDULES["1f1b"].of(Job(p=3, m=4)))
    assert [s.sentence for s in idle(bare, program)] == [s.sentence for s in idle(run)]
    half = replace(run, spans=tuple(s for s in run.spans if s.op != "send"))
    assert {s.cause for s in idle(half) if s.inside} == {Cause.UNKNOWN}


def test_between_steps_a_rank_drains_until_the_step_is_over_and_fills_then():
    """Rank 1 ends step 0 at 2, rank 0 at 5; rank 1's next task begins at 7."""
    run = trace(
        span(0, "F", 0, 5),
        span(1, "F", 0, 2),
        span(0, "F", 5, 7, step=1),
        span(1, "F", 7, 8, step=1, index=1, deps=(0,)),
        span(1, "recv", 5, 7, step=1, index=0),
    )
    assert beats(idle(run), 1) == [("drain", 2, 5), ("fill", 5, 7)]
    assert beats(idle(run), 0) == [("drain", 7, 8)]


def test_a_norm_that_waits_for_the_first_stage_is_drain_and_for_a_replica_is_not():
    """After its last backward a rank waits for stage 0 in an all-reduce: the pipeline drains."""

    def run(other: str) -> Trace:
        meet = {"peers": (0, 1), "axis": "pp", "seq": 0}
        return trace(
            span(0, "B", 0, 5, where="stage0", mb=0),
            span(0, "all_reduce", 5, 6, index=1, deps=(0,), **meet),
            span(0, "O", 6, 7, index=2, deps=(1,)),
            span(1, "B", 0, 2, where=other, mb=0),
            span(1, "all_reduce", 2, 6, index=1, deps=(0,), **meet),
            span(1, "O", 6, 7, index=2, deps=(1,)),
        )

    assert beats(idle(run("stage1")), 1)[0] == ("drain", 2, 5)
    assert beats(idle(run("stage0")), 1)[0][0] in ("straggler", "late peer")


def test_a_data_parallel_step_is_told_in_the_same_words():
    """Every idle nanosecond of a bucketed step is a wire, a peer or a drain."""
    plan = Plan.of(dp=3, dp_method="bucketed", microbatches=2, global_batch=6, layers=2)
    run = simulate(program_of(plan), model_cost(plan))
    found = idle(run)
    conserves(run, found)
    assert {s.cause for s in found} <= {
        Cause.WIRE, Cause.LINK_BUSY, Cause.DRAIN, Cause.LATE_PEER, Cause.CHOICE,
    }  # fmt: skip
    assert Cause.WIRE in {s.cause for s in found}


# ---- bubble, critical path, lateness


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_bubble_of_a_trace_is_the_schedules(name):
    """What is counted from spans equals what the order's figures say, ratio by ratio."""
    virtual = SCHEDULES[name].virtual
    try:
        order = SCHEDULES[name].of(Job(p=4, m=8, v=virtual[0] if virtual else 2))
    except ValueError as error:
        pytest.skip(str(error))
    times = Times.even(4, tcomm=0.5, slow={1: 1.25})
    run = simulate(lower(order), PipelineCost.of(order, times))
    want, have = figures_of(run, order), bubble(run)
    for ratio in ("bubble_ratio", "bubble_fraction", "internal_fraction", "bubble_rate"):
        assert getattr(have, ratio) == pytest.approx(getattr(want, ratio), abs=1e-9), ratio
    assert [r.in_flight for r in have.ranks] == want.peak_in_flight
    assert [r.idle_ns / BEAT for r in have.ranks] == pytest.approx(want.idle)
    assert sum(have.causes.values()) == sum(r.idle_ns for r in have.ranks)


def test_peaks_in_flight_and_in_bytes_on_paper():
    """1F1B holds p - r microbatches, GPipe all; memory is what the spans say."""
    assert in_flight(ran("1f1b", 4, 8)) == (4, 3, 2, 1)
    assert in_flight(ran("gpipe", 4, 8)) == (8, 8, 8, 8)
    assert in_flight(ran("interleaved", 4, 8, v=2))[0] == 5.5
    assert [r.memory for r in bubble(ran("1f1b", 4, 8)).ranks] == [4, 3, 2, 1]
    assert bubble(ran("gpipe", 4, 8)).bubble_ratio == pytest.approx(3 / 8)
    assert bubble(ran("gpipe", 4, 8)).bubble_fraction == pytest.approx(3 / 11)


def test_the_critical_path_of_a_pipeline_goes_through_the_slow_stage():
    """F through stages 0, 1, 2, then most of its time on the slow one, and home again."""
    path = critical_path(ran("1f1b", 4, 8, slow={2: 2}))
    ranks = [p.span.rank for p in path.pieces if p.span]
    assert ranks[:3] == [0, 1, 2] and ranks[-3:] == [2, 1, 0]
    on = [sum(p.ns for p in path.pieces if p.span and p.span.rank == r) for r in range(4)]
    assert on[2] > 0.8 * sum(on)
    assert set(path.shares) == {"F", "B"}
    apart = critical_path(ran("naive", 2, 1, tcomm=0.5))
    assert [(p.span.rank, p.span.op, p.ns / BEAT) for p in apart.pieces if p.span] == [
        (0, "F", 1), (1, "recv", 0.5), (1, "F", 1), (1, "B", 2), (0, "recv", 0.5), (0, "B", 2),
    ]  # fmt: skip


def test_lateness_by_dependency_step():
    """Two ranks do the same; the one that is 3 beats behind is late by 3, its message too."""
    meet = {"peers": (0, 1), "axis": "dp", "seq": 0}
    run = trace(
        span(0, "F", 0, 1),
        span(0, "B", 1, 2, index=1, deps=(0,)),
        span(0, "all_reduce", 2, 6, index=2, deps=(1,), **meet),
        span(1, "F", 0, 4),
        span(1, "B", 4, 5, index=1, deps=(0,)),
        span(1, "all_reduce", 5, 6, index=2, deps=(1,), **meet),
    )
    found = {(one.span.rank, one.span.op): one for one in logical(run)}
    assert [found[0, op].level for op in ("F", "B", "all_reduce")] == [0, 1, 2]
    assert found[1, "B"].late_ns == 3 * BEAT and found[0, "B"].late_ns == 0
    # The collective began to move when the last had come: neither end is late in it.
    assert found[1, "all_reduce"].late_ns == found[0, "all_reduce"].late_ns == 0
    assert latest(logical(run)) == {0: 0, 1: 3 * BEAT}


def test_a_receive_stands_after_its_send():
    """Each hop of a microbatch is later in steps, and early receives are not early."""
    found = logical(ran("gpipe", 3, 2))
    level = {(one.span.rank, one.span.op, one.span.mb): one.level for one in found}
    for rank in (0, 1):
        assert level[rank, "F", 0] < level[rank + 1, "recv", 0]
        assert level[rank + 1, "F", 0] > level[rank, "F", 0]
    assert max(one.late_ns for one in found if one.span.op == "F") <= 2 * BEAT


# ---- speed


def test_a_hundred_thousand_spans_take_seconds_at_most():
    """100,000 spans within 2 s of this thread's time, sentences included."""
    run = ran("interleaved", 16, 272, v=4, tcomm=0.3, slow={3: 1.7})
    assert len(run.spans) > 100_000
    run.by_rank  # noqa: B018  (cached: sorting is not what is timed)
    start = time.thread_time()
    found = idle(run)
    assert all([slot.sentence for slot in found])
    assert time.thread_time() - start < 2
    blank = Program(Mesh((("pp", 1),)), ((Instr(op=Op.F),),), ((),), ((),))
    assert idle(simulate(blank, PipelineCost(Times.even(1)))) == ()

"""Causes of idle slots that can be told by looking at a trace drawn by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from idle_traces import BEAT, beats, conserves, ran, span, trace

from parallel_core.analysis.cause import Cause
from parallel_core.analysis.idle import idle
from parallel_core.cases import program_of
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.schedule import Job
from parallel_core.plan import Plan
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.trace import Kind, Trace
from parallel_core.views.causes import message_ids, ordered, waits


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

"""Messages inside a task: as they were sent, where they stand, and what they cost a clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_runs import run_all

from parallel_core.analysis.bubble import bubble
from parallel_core.assemble import program as program_of
from parallel_core.check import check
from parallel_core.cli.trace_command import summary
from parallel_core.cost import Link, wire_bytes
from parallel_core.importers.load import load
from parallel_core.inside import opened
from parallel_core.plan import Plan
from parallel_core.program import Instr, Message, Op, Program, ProgramError, Value
from parallel_core.replay import model_cost, replay
from parallel_core.report import RunView
from parallel_core.simulate import simulate
from parallel_core.sizes import value_bytes
from parallel_core.trace import Span, Trace
from parallel_core.views.columns import Deck, layer

plans = st.builds(
    lambda tp, dp, how, m, more: Plan.of(
        tp=tp, dp=dp, microbatches=m, global_batch=4 * m * dp, layers=2, **how, **more
    ),
    st.sampled_from([2, 4]),
    st.sampled_from([1, 2]),
    st.sampled_from([{}, {"sp": True}, {"sp": True, "overlap_tp": True}]),
    st.sampled_from([1, 2]),
    st.sampled_from(
        [
            {},
            {"recompute": "full"},
            {"recompute": "selective", "attention": "unfused"},
            {"dialect": "gpt", "tied": True},
            {"offload": True},
        ]
    ),
)


def tasks(program: Program) -> Iterator[Instr]:
    """The compute instructions that have messages inside."""
    return (i for i in program.ranks[0] if i.inner and not i.op.is_message)


@given(plans)
@settings(max_examples=60, deadline=None)
def test_messages_stand_inside_their_tasks(plan):
    """Shares of work are shares: none negative, none more than the whole; the text holds them."""
    program = program_of(plan)
    check(program)
    assert Program.parse(str(program)) == program
    for task in tasks(program):
        shares = [share for m in task.inner for share in (m.before, m.under)]
        assert all(0 <= share <= 1 for share in shares)
        assert sum(shares) <= 1 + len(shares) / 1000


@given(plans)
@settings(max_examples=60, deadline=None)
def test_a_task_lasts_its_work_and_what_of_its_messages_nothing_hides(plan):
    """Laid open and closed again: every instruction once, with its messages inside it."""
    program = program_of(plan)
    cost = model_cost(plan)
    trace = simulate(program, cost)
    assert [(s.rank, s.index) for s in sorted(trace.spans, key=lambda s: (s.rank, s.index))] == [
        (rank, index) for rank, index, _ in program
    ]
    for span in trace.by_rank[0]:
        instr = program.ranks[0][span.index]
        if instr.op.is_message or not instr.inner:
            assert span.inside == ()
            continue
        wire = sum(done - start for *_, start, done in span.inside)
        work = round(1e9 * cost.seconds(0, instr))
        assert [row[:3] for row in span.inside] == [
            (m.op.value, m.axis, str(m.value)) for m in instr.inner
        ]
        assert abs(span.cpu_ns - work) <= 40
        assert max(work, wire) - 40 <= span.duration <= work + wire + 40
        if not plan.overlap_tp:
            assert abs(span.duration - work - wire) <= 40


def test_under_a_slow_link_overlap_hides_what_work_there_is():
    """The step is shorter with overlap than without, and by no more than the gathers last."""
    plan = Plan.of(tp=4, sp=True, layers=2)
    slow = Link(alpha=1e-5, beta=2e9)
    times = {}
    for overlap in (False, True):
        chosen = plan.but(overlap_tp=overlap)
        times[overlap] = simulate(program_of(chosen), model_cost(chosen, link=slow)).makespan
    size, messages = value_bytes(plan), [m for t in tasks(program_of(plan)) for m in t.inner]
    hidden = sum(slow.seconds(m.op, size(m.value), 4) for m in messages if m.op != Op.ALL_REDUCE)
    assert 0 < times[False] - times[True] <= 1e9 * hidden


def test_without_a_link_to_speak_of_overlap_wins_nothing():
    plan = Plan.of(tp=2, sp=True, layers=2)
    free = Link(alpha=0.0, beta=1e18)
    spans = [
        simulate(program_of(p), model_cost(p, link=free)).makespan
        for p in (plan, plan.but(overlap_tp=True))
    ]
    assert abs(spans[0] - spans[1]) < 1000


def edited(program: Program, rank: int, index: int, inner: tuple[Message, ...]) -> Program:
    """The program with other messages inside one task of one rank."""
    ranks = [list(row) for row in program.ranks]
    ranks[rank][index] = replace(ranks[rank][index], inner=inner)
    return replace(program, ranks=tuple(map(tuple, ranks)))


def test_ranks_that_do_not_meet_inside_a_task_are_named():
    """One sends a message less, or another one: check says so, where a run would hang."""
    program = program_of(Plan.of(tp=2, layers=2))
    index, task = next((i, t) for i, t in enumerate(program.ranks[1]) if t.where == "layer0")
    with pytest.raises(ProgramError, match="rank 1"):
        check(edited(program, 1, index, task.inner[:1]))
    other = (Message(Op.ALL_GATHER, "tp", Value("region", (0,))), *task.inner[1:])
    with pytest.raises(ProgramError, match="rank"):
        check(edited(program, 1, index, other))


def test_a_program_without_messages_inside_needs_no_opening():
    assert opened(program_of(Plan.of(dp=2))) is None
    assert opened(program_of(Plan.of(tp=2))) is not None


TINY = {"hidden": 32, "heads": 4, "seq": 16, "vocab": 62, "layers": 2, "dtype": "float64"}
HOWS = [
    {},
    {"sp": True},
    {"sp": True, "overlap_tp": True},
    {"sp": True, "overlap_tp": True, "dialect": "gpt"},  # biases
    {"sp": True, "overlap_tp": True, "recompute": "full", "kv_heads": 1},
    {"sp": True, "recompute": "full", "dialect": "gpt", "dropout": 0.1},
    {"sp": True, "recompute": "selective", "dialect": "gpt", "tied": True, "offload": True},
]


@pytest.mark.live
@pytest.mark.parametrize("world", [2, 4])
def test_what_was_sent_inside_is_what_the_program_says(world, pool):
    """Kind, axis, payload bytes, count and order, of every task of every rank and step; each lies
    within its task. Overlap sends the same messages; the loss is one process's."""
    chosen = [Plan.of(**TINY, **how, tp=world, global_batch=4) for how in HOWS]
    for ran in run_all(pool, chosen):
        assert ran.parity["max_rel_error"] < 1e-10, ran.plan
        assert ran.ledger["activations"]["differences"] == []
        size = value_bytes(ran.plan)
        for spans in ran.spans:
            for span in spans:
                instr = ran.instr(span)
                if instr.op.is_message:
                    continue
                assert [row[:4] for row in span.inside] == [
                    (m.op.value, m.axis, str(m.value), size(m.value)) for m in instr.inner
                ], (ran.plan.layout, span.label)
                for *_, start, done in span.inside:
                    assert span.t_start <= start < done <= span.t_done


@pytest.mark.live
@pytest.mark.parametrize("world", [2, 4])
def test_products_run_while_the_gather_that_feeds_them_is_under_way(world, on_ranks):
    """Measured: the rank's own tile is multiplied between the gather's begin and its end, and dw
    between those of the scatter; without overlap every product waits for its whole message."""
    for told in on_ranks(world, "overlap_targets:products_and_messages"):
        hidden, plain = told["overlap"], told["plain"]
        ahead, *others = hidden["forward"]["products"]
        ((begin, end),) = hidden["forward"]["messages"]
        assert begin <= ahead[0] and ahead[1] <= end and len(others) == world - 1
        assert others[-1][0] >= end  # the last tile is multiplied when it is there
        (again, scatter), (dx, dw) = hidden["backward"]["messages"], hidden["backward"]["products"]
        assert again[0] <= dx[0] and dx[1] <= again[1]
        assert scatter[0] <= dw[0] and dw[1] <= scatter[1]
        ((begin, end),), (product,) = plain["forward"]["messages"], plain["forward"]["products"]
        assert product[0] >= end
        assert hidden["same"] < 1e-12


@pytest.mark.live
def test_a_trace_keeps_what_is_inside(pool, tmp_path):
    """To JSON and back, through the loader of strangers' files, and through a replay."""
    plan = Plan.of(**TINY, tp=2, sp=True, global_batch=4)
    view = RunView(plan)
    with pool.start("parallel_core.runtime:train", 2, {"plan": plan.flat(), "steps": 2}) as run:
        for event in run.events():
            view.feed(event)
        view.finish(run.wait())
    trace = view.trace
    assert Trace.from_json(trace.to_json()) == trace
    path = tmp_path / "own.json"
    path.write_text(trace.to_json())
    assert [s.inside for s in load(path.name, path.read_bytes()).spans] == [
        s.inside for s in trace.spans
    ]
    again = replay(plan, view.program, trace, link=Link(1e-4, 1e9))
    assert [[row[:4] for row in s.inside] for s in sorted(again.spans, key=_place)] == [
        [row[:4] for row in s.inside] for s in sorted(trace.spans, key=_place)
    ]
    for span in again.spans:  # on the replay's clock, as the task itself
        times = [moment for *_, start, done in span.inside for moment in (start, done)]
        assert times == sorted(times)
        assert all(span.t_start <= moment <= span.t_done for moment in times)


def _place(span: Span) -> tuple[int, int, int]:
    return span.rank, span.step, span.index


def test_the_price_of_sequence_parallelism_has_a_name():
    """Forward the bytes are the same; backward one gather more a region, called `again`."""
    plan = Plan.of(tp=4, layers=1)
    size = value_bytes(plan)

    def sent(chosen: Plan, op: Op, name: str = "") -> int:
        (task,) = [t for t in tasks(program_of(chosen)) if (t.op, t.where) == (op, "layer0")]
        return sum(wire_bytes(m.op, size(m.value), 4) for m in task.inner if m.value.name != name)

    cut = plan.but(sp=True)
    size = value_bytes(cut)
    whole, part = sent(plan, Op.F), sent(cut, Op.F)
    assert whole == part
    assert sent(cut, Op.B) == 1.5 * sent(plan, Op.B) == 1.5 * sent(cut, Op.B, "again")


def test_the_trace_command_tells_of_messages_inside():
    """Their kinds, how many, their payload and how long they were under way; nothing without."""
    plan = Plan.of(tp=2, sp=True, layers=2)
    trace = simulate(program_of(plan), model_cost(plan))
    told = [row for span in trace.spans for row in span.inside]
    rows = {row["message"]: row for row in summary(trace, bubble(trace), 0)["inside"]}
    assert set(rows) == {"all_gather @tp", "all_reduce @tp", "reduce_scatter @tp"}
    assert sum(row["sent"] for row in rows.values()) == len(told)
    ms = sum(row["under way (ms a rank)"] for row in rows.values())
    assert ms == pytest.approx(sum(done - start for *_, start, done in told) / 2e6, abs=0.01)
    plain = simulate(program_of(Plan.of(dp=2)), model_cost(Plan.of(dp=2)))
    assert summary(plain, bubble(plain), 0)["inside"] == []


def test_the_player_shows_what_is_inside_on_a_lane_of_its_own():
    """A row a message, pointing at its task; tasks, waits and dependencies are as before."""
    plan = Plan.of(tp=2, layers=2)
    trace = simulate(program_of(plan), model_cost(plan))
    shown = layer([Deck(trace=trace)], {})
    inside = sum(len(span.inside) for span in trace.spans)
    assert inside > 0 and shown["n"] == len(trace.spans) + inside
    bare = replace(trace, spans=tuple(replace(s, inside=()) for s in trace.spans))
    plain = layer([Deck(trace=bare)], {})
    assert plain["n"] == len(trace.spans)
    assert shown["waits"]["length"] == plain["waits"]["length"]
    assert len(shown["deps"]) == len(plain["deps"])

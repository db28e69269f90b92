"""Time that a task stands still for its own messages is no compute, wherever a figure says so."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.held import Held
from parallel_core.cases import program_of
from parallel_core.cost import Link
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.trace import Inside, Kind, Provenance, Span, Trace
from parallel_core.views.account import account
from parallel_core.views.columns import Deck, layer

TP = {"tp": 2, "layers": 2, "hidden": 32, "heads": 4, "seq": 16}
SLOW = Link(alpha=1e-4, beta=1e9)


def ran(span: Span, kind: Kind = Kind.MEASURED, **plan: object) -> Trace:
    """A trace of one span on one rank."""
    return Trace((span,), Provenance(kind=kind, plan=plan), span.rank + 1)


def task(*inside: Inside, where: str = "") -> Span:
    """A forward from 0 to 100 that holds these messages."""
    return Span(
        rank=0, step=0, index=0, lane="compute", op="F", where=where, t_post=0, t_start=0,
        t_done=100, inside=inside,
    )  # fmt: skip


def test_a_message_that_the_task_waits_for_is_exposed():
    """All-reduce from 40 to 70 in a task of 100: computing 70, exposed 30, hidden nothing."""
    (use,) = exposed(ran(task(("all_reduce", "tp", "region", 8, 40, 70)))).ranks
    assert (use.compute_ns, use.exposed_ns, use.hidden_ns, use.idle_ns) == (70, 30, 0, 0)
    assert use.comm_ns == 30


def test_a_hop_that_work_goes_on_beside_is_hidden():
    """Shifts from 0 to 60 of a ring: the task computes all the while."""
    hops = (("shift", "cp", "", 8, 0, 40), ("shift", "cp", "", 8, 40, 60))
    (use,) = exposed(ran(task(*hops))).ranks
    assert (use.compute_ns, use.exposed_ns, use.hidden_ns) == (100, 0, 60)


@pytest.mark.parametrize("overlap", [False, True])
def test_the_plan_of_a_run_says_which_of_its_messages_hold_it_up(overlap):
    """With overlap the gathers of a layer have products beside them; the scatters never."""
    plan = Plan.of(**TP, sp=True, overlap_tp=overlap)
    row = program_of(plan).ranks[0]
    instr = next(instr for instr in row if instr.op is Op.F and instr.where == "layer0")
    bounds = pairwise(range(10, 10 * len(instr.inner) + 11, 10))
    inside = [
        (m.op.value, m.axis, str(m.value), 8, begin, end)
        for m, (begin, end) in zip(instr.inner, bounds, strict=True)
    ]
    span = task(*inside, where="layer0")
    held = list(Held(ran(span, **plan.flat()))(span))
    waited = [row[-2:] for row, m in zip(inside, instr.inner, strict=True) if not m.under]
    assert held == waited and len(waited) == (2 if overlap else 4)


def test_a_strangers_plan_is_no_reason_to_fail():
    """Its messages count as those of a task that waits for them."""
    span = task(("all_gather", "tp", "", 8, 40, 70))
    assert list(Held(ran(span, layers="many"))(span)) == [(40, 70)]
    assert list(Held(ran(span, nonsense=3))(span)) == [(40, 70)]


@pytest.mark.parametrize("overlap", [False, True])
def test_on_paper_a_rank_computes_exactly_its_work(overlap):
    """Of a simulated step under a slow link the compute time is the work, whatever overlaps."""
    plan = Plan.of(**TP, sp=True, overlap_tp=overlap)
    trace = simulate(program_of(plan), model_cost(plan, link=SLOW))
    tasks = [s for s in trace.by_rank[0] if s.lane == "compute" and s.op != Op.WAIT]
    own = [s for s in tasks if not Op(s.op).is_message]
    (use, _) = exposed(trace).ranks
    assert use.compute_ns == pytest.approx(sum(s.cpu_ns for s in own), abs=40 * len(own))
    assert use.exposed_ns > use.compute_ns  # the link is what such a step waits for


def test_the_player_and_the_words_say_what_the_analysis_says():
    """Its busy shares are the utilisation, two traces on one axis included; so is the account."""
    plan = Plan.of(**TP)
    trace = simulate(program_of(plan), model_cost(plan, link=SLOW))
    shares = [use.utilisation for use in exposed(trace).ranks]
    assert layer([Deck(trace=trace)], {})["busy"] == shares
    decks = [Deck(trace=trace, name="A"), Deck(trace=trace, first=2, name="B")]
    assert layer(decks, {})["busy"] == shares * 2
    assert f"computes {round(100 * shares[0])} % of the time" in account(trace)
    naive = sum(s.duration for s in trace.by_rank[0] if s.inside) / trace.makespan
    assert shares[0] < naive / 2


def test_a_copy_to_the_host_computes_nothing():
    """A forward of 100 ns beside a copy of 150: the rank computed for 100 of 150."""
    copy = replace(task(), op="offload", lane="host", t_done=150, index=1)
    (use,) = exposed(Trace((task(), copy), Provenance(kind=Kind.MEASURED), 1)).ranks
    assert (use.compute_ns, use.window_ns) == (100, 150)

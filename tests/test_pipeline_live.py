"""Pipelines on real processes equal one process; what ran is what was planned, to the byte."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from pipeline_runs import LLAMA, TINY, Ran, dressed, legal, run_all

from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.launch import Pool
from parallel_core.pipeline import SCHEDULES
from parallel_core.plan import Plan
from parallel_core.program import Lane, Op, Program
from parallel_core.prove import prove
from parallel_core.sizes import value_bytes
from parallel_core.trace import Span

pytestmark = pytest.mark.live

Runs = Callable[[int], list[Ran]]
EACH = [(name, p) for p in (2, 3, 4) for name in SCHEDULES if name in dict(legal(p))]
every_schedule = pytest.mark.parametrize(("name", "p"), EACH)
every_p = pytest.mark.parametrize("p", [2, 3, 4])
SYNCHRONOUS = [name for name, schedule in SCHEDULES.items() if not schedule.asynchronous]


def grid(p: int) -> list[Plan]:
    """Every schedule and number of microbatches that p ranks allow, each in two of four dresses."""
    return [
        dressed(name, p, m, (i + m // 2 + more) % 4)
        for i, (name, m) in enumerate(legal(p))
        for more in (0, 1)
    ]


@pytest.fixture(scope="module")
def runs(pool: Pool) -> Runs:
    """The runs of the grid of p ranks, made when first asked for."""
    done: dict[int, list[Ran]] = {}

    def of(p: int) -> list[Ran]:
        if p not in done:
            done[p] = run_all(pool, grid(p))
        return done[p]

    return of


def of_schedule(runs: Runs, name: str, p: int) -> list[Ran]:
    found = [ran for ran in runs(p) if ran.plan.schedule == name]
    assert len(found) >= 2
    assert len({ran.plan.model.dialect for ran in found}) == 2
    return found


def agrees(ran: Ran) -> None:
    """Loss, gradient norm, every gradient, the weights after 3 steps; every ledger, to the byte."""
    parity, book = ran.parity, ran.ledger
    assert parity["counted"] == ["loss", "gradient norm", "gradients", "parameters"]
    assert parity["steps"] == 3
    assert parity["max_rel_error"] <= 1e-10, (ran.plan, parity)
    assert book["wire"]["predicted"] == book["wire"]["measured"], ran.plan
    assert book["control"]["predicted"] == book["control"]["measured"], ran.plan
    assert book["memory"]["predicted"] == book["memory"]["measured"], ran.plan
    assert book["activations"]["differences"] == [], ran.plan
    assert book["comm_buffers"]["differences"] == [], ran.plan


@every_schedule
def test_every_schedule_trains_the_model_of_one_process(name, p, runs):
    """In two dialects, tied or not, cut evenly or not, with SGD and AdamW; and the ledgers agree.

    The asynchronous one is held against one process that uses the same stale weights.
    """
    for ran in of_schedule(runs, name, p):
        agrees(ran)


@every_schedule
def test_copies_of_a_weight_stay_equal_to_the_bit(name, p, runs):
    """DualPipe's two copies of every stage, the two of a tied table: after 3 steps no difference."""
    for ran in of_schedule(runs, name, p):
        by_name = defaultdict(list)
        for result in ran.results:
            for weight, (digest, _) in result["digests"].items():
                by_name[weight].append(digest)
        copies = SCHEDULES[name].copies
        assert all(len(digests) >= copies for digests in by_name.values())
        assert all(len(set(digests)) == 1 for digests in by_name.values()), ran.plan


@every_schedule
def test_the_live_order_is_the_programs(name, p, runs):
    """Every instruction once a step, in its lane's order, after everything it needed."""
    for ran in of_schedule(runs, name, p):
        for rank, _, spans in ran.steps():
            for lane in Lane:
                mine = [span for span in spans if span.lane == lane]
                planned = [i for i in ran.program.ranks[rank] if i.lane == lane]
                assert [(s.op, s.where, s.mb) for s in mine] == [
                    (i.op, i.where, i.mb) for i in planned
                ]
                assert all(a.t_done <= b.t_start for a, b in pairwise(mine))
            done = {span.index: span.t_done for span in spans}
            for span in spans:
                if span.op != Op.WAIT:
                    assert all(done[dep] <= span.t_start for dep in span.deps)


@every_p
def test_no_message_arrives_before_it_was_sent(p, runs):
    """The k-th receive of a pair takes the k-th send, also by the clocks of both ends."""
    for ran in runs(p):
        sent, came = defaultdict(list), defaultdict(list)
        for span in (span for spans in ran.spans for span in spans):
            if span.op in (Op.SEND, Op.RECV):
                side = sent if span.op == Op.SEND else came
                side[span.peers].append((span.step, span.t_start, span.t_done, span.where, span.mb))
        assert sent.keys() == came.keys()
        for pair, out in sent.items():
            for send, receive in zip(sorted(out), sorted(came[pair]), strict=True):
                assert (send[0], *send[3:]) == (receive[0], *receive[3:])
                assert send[1] <= receive[2]


@every_p
def test_every_program_is_legal_and_sums_every_term_once(p):
    """No deadlock though every send waits for its receive, first in first out, no term missing."""
    for plan in grid(p):
        for dp, method in ((1, "bucketed"), (2, "naive"), (2, "bucketed")):
            more = {"dp": dp, "dp_method": method, "global_batch": dp * plan.microbatches}
            program = program_of(plan.but(**more))
            check(program)
            assert prove(program) >= dp * plan.pipeline.stages * plan.microbatches


def test_what_the_kernels_saw_is_the_program(on_ranks):
    """The kernels' own diary: every call, on its lane's thread, in the order of the program."""
    plans = [dressed(name, 2, 4, 0) for name in SYNCHRONOUS]
    by_rank = on_ranks(2, "pipeline_targets:diary", plans=[plan.flat() for plan in plans])
    for i, plan in enumerate(plans):
        for rank, instrs in enumerate(program_of(plan).ranks):
            for lane in Lane:
                planned = [x.label for x in instrs if x.lane == lane and x.op != Op.WAIT]
                on_thread = f"{lane} lane" if lane != Lane.COMPUTE else "MainThread"
                called = [label for thread, label in by_rank[rank][i] if thread == on_thread]
                assert called == planned, (plan.schedule, rank, lane)


def accumulation(plan: Plan) -> tuple[Any, ...]:
    """The order in which the microbatches of each layer's gradient add up, copy by copy."""
    from parallel_core.params import pieces

    orders: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    if plan.pp == 1:
        return tuple((unit.units[0], ((*range(plan.microbatches),),)) for unit in pieces(plan))
    for tasks in plan.pipeline.ranks:
        each = defaultdict(list)
        for task in tasks:
            if task.op in (Op.B, Op.W):
                each[task.stage].append(task.mb)
        for stage, mbs in each.items():
            for unit in pieces(plan)[stage].units:
                orders[unit].append(tuple(mbs))
    return tuple((unit, tuple(orders[unit])) for unit in ("embed", *sorted(orders.keys() - {"embed"})))


def test_the_same_order_of_sums_gives_the_same_bits(pool):
    """x"""
    plans=[]
    for p in (1,2,3,4):
        for name in SYNCHRONOUS:
            pass

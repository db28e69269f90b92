"""Pipelines on real processes equal one process; what ran is what was planned, to the byte."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from pipeline_runs import GPT, LLAMA, TINY, Ran, dressed, legal, run_all
from safetensors.torch import load_file

from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.launch import Pool
from parallel_core.pieces import pieces
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.order import COMPUTES
from parallel_core.plan import Plan
from parallel_core.program import Lane, Op
from parallel_core.prove import prove
from parallel_core.sizes import value_bytes

pytestmark = pytest.mark.live

Runs = Callable[[int], list[Ran]]
EACH = [(name, p) for p in (2, 3, 4) for name in SCHEDULES if name in dict(legal(p))]
every_schedule = pytest.mark.parametrize(("name", "p"), EACH)
every_p = pytest.mark.parametrize("p", [2, 3, 4])
SYNCHRONOUS = [name for name, schedule in SCHEDULES.items() if not schedule.asynchronous]


def grid(p: int, *, every: bool) -> list[Plan]:
    """Every schedule and number of microbatches that p ranks allow, in four dresses by turns; the
    fewest and the most microbatches of each in two dresses.

    A sample has of each schedule the fewest in two dresses, the most, and another number.
    """
    cases, found = legal(p), []
    for i, (name, m) in enumerate(cases):
        numbers = [n for named, n in cases if named == name]
        few, other, most = numbers[0], numbers[(p - 1) % len(numbers)], numbers[-1]
        twice = m == few or (every and m == most)
        if every or m in (few, other, most):
            found += [dressed(name, p, m, (i + m // 2 + more) % 4) for more in range(1 + twice)]
    return found


@pytest.fixture(scope="module")
def runs(pool: Pool, whole_matrix: bool) -> Runs:
    """The runs of the grid of p ranks, made when first asked for."""
    done: dict[int, list[Ran]] = {}

    def of(p: int) -> list[Ran]:
        if p not in done:
            done[p] = run_all(pool, grid(p, every=whole_matrix))
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
    """DualPipe's two copies of every stage, a tied table's two: no difference after 3 steps."""
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
    for plan in grid(p, every=True):
        method = ("naive", "bucketed")[plan.microbatches % 2]
        for dp in (1, 2):
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


def accumulation(plan: Plan) -> frozenset[tuple[str, tuple[tuple[int, ...], ...]]]:
    """The order in which each unit's gradient takes its microbatches, on every rank that has it."""
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    if plan.pp == 1:
        alone = ((*range(plan.microbatches),),)
        return frozenset((piece.name, alone) for piece in pieces(plan))
    for tasks in plan.pipeline.ranks:
        for stage in {task.stage for task in tasks}:
            ends = [t.mb for t in tasks if t.stage == stage and t.op in (Op.B, Op.W)]
            for unit in pieces(plan)[stage].units:
                found[unit].append(tuple(ends))
    return frozenset((unit, tuple(sorted(orders))) for unit, orders in found.items())


def digests(ran: Ran) -> dict[str, list[str]]:
    """Weight and last gradient of every parameter, of all ranks together."""
    return {name: pair for result in ran.results for name, pair in result["digests"].items()}


@pytest.mark.parametrize("model", [LLAMA, GPT], ids=["llama", "gpt"])
def test_the_same_order_of_sums_gives_the_same_bits(model, pool):
    """In float32, weights untied: weights and gradients after 3 steps, also those of one process.

    Every synchronous schedule but DualPipe sums 0, 1, ... m-1 everywhere, whether its backward is
    whole (B) or in halves (I, W), on 2 ranks as on 4: one group, one set of bits. DualPipe adds
    two halves of its own, and agrees with itself on 2 and 4 ranks.
    """
    m = 8
    base = {**TINY, **model, "dtype": "float32", "layers": 6, "microbatches": m, "global_batch": m}
    groups: dict[Any, list[Ran]] = defaultdict(list)
    for p in (1, 2, 4):
        names = SYNCHRONOUS if p > 1 else ["1f1b"]
        plans = [Plan.of(**base, pp=p, schedule=name) for name in names]
        for ran in run_all(pool, plans, parity=False):
            groups[accumulation(ran.plan)].append(ran)
    compared = sorted(
        sorted((g.plan.pp, g.plan.schedule) for g in group) for group in groups.values()
    )
    ascending = [(p, name) for p in (2, 4) for name in SYNCHRONOUS if name != "dualpipe"]
    assert compared == [sorted([(1, "1f1b"), *ascending]), [(2, "dualpipe"), (4, "dualpipe")]]
    for group in groups.values():
        first = digests(group[0])
        for other in group[1:]:
            assert digests(other) == first, (group[0].plan.layout, other.plan.layout)
    one, two = (digests(group[0]) for group in groups.values())
    assert one != two  # the order of sums does show


def data_parallel() -> list[Plan]:
    """Every schedule on 2 replicas of 2 stages, the ways to reduce in turn."""
    methods = ("bucketed", "naive")
    plans = [
        dressed(name, 2, 4, i % 4, dp=2, global_batch=8, dp_method=methods[(i // 2) % 2])
        for i, name in enumerate(SCHEDULES)
    ]
    uneven = dressed("1f1b", 2, 5, 3, dp=2, global_batch=20, dp_method="naive")
    return [*plans, uneven]


@pytest.fixture(scope="module")
def replicated(pool: Pool) -> list[Ran]:
    return run_all(pool, data_parallel())


@pytest.mark.parametrize("name", SCHEDULES)
def test_data_parallelism_composes(name, replicated):
    """Two replicas of a pipeline train the model of one process; the replicas stay equal."""
    for ran in (ran for ran in replicated if ran.plan.schedule == name):
        agrees(ran)
        for group in ran.plan.mesh.groups("dp"):
            first, other = (ran.results[rank]["digests"] for rank in group)
            assert first == other


SIZED = {
    "layers": 8, "hidden": 64, "heads": 4, "seq": 64, "vocab": 64, "optimizer": "sgd",
    "microbatches": 8, "global_batch": 32,
}  # fmt: skip
"""Large enough that kernels take milliseconds and activations outweigh everything else."""


@pytest.fixture(scope="module")
def sized(pool: Pool) -> dict[str, Ran]:
    """Some schedules on 4 ranks, and what they do when every message is slow."""
    plans = [Plan.of(**SIZED, pp=4, schedule=s) for s in ("naive", "gpipe", "1f1b", "dualpipe")]
    found = {ran.plan.schedule: ran for ran in run_all(pool, plans, parity=False)}
    slow = run_all(pool, [plans[0], plans[3]], parity=False, slow_wire=True)
    return found | {f"{ran.plan.schedule}, slow": ran for ran in slow}


def beside(ran: Ran) -> list[tuple[bool, bool]]:
    """Of each activation sent where a backward comes next on the rank: did the message start
    before that backward ended, and was it under way while some backward ran?"""
    found = []
    for _, _, spans in ran.steps():
        tasks = sorted((s for s in spans if s.op in COMPUTES), key=lambda s: s.index)
        backwards = [span for span in tasks if span.op != Op.F]
        for message in spans:
            if message.op != Op.SEND or ran.instr(message).reads[0].name != "act":
                continue
            after = next((s for s in tasks if s.index > message.index), None)
            if after is not None and after.op != Op.F:
                under_way = any(
                    s.t_start < message.t_done and message.t_start < s.t_done for s in backwards
                )
                found.append((message.t_start < after.t_done, under_way))
    return found


def test_messages_of_a_forward_go_beside_the_backward_of_the_other_direction(sized):
    """DualPipe's overlap, on the clock; layer-wise order has none, so the measure can say no."""
    fast, slow = beside(sized["dualpipe"]), beside(sized["dualpipe, slow"])
    assert len(fast) >= 24
    assert sum(early for early, _ in fast) >= 0.6 * len(fast)
    assert any(under_way for _, under_way in fast)
    assert sum(under_way for _, under_way in slow) >= 0.5 * len(slow)
    for name in ("naive", "naive, slow"):
        assert not any(under_way for _, under_way in beside(sized[name]))


IN_FLIGHT = ("act", "dact", "saved", "held")


def most_in_flight(ran: Ran, rank: int) -> tuple[float, float]:
    """Bytes of activations at a rank's fullest moment: by the program, and as measured."""
    size = value_bytes(ran.plan)
    live, planned = 0, 0
    for instr in ran.program.ranks[rank]:
        live += sum(size(value) for value in instr.writes if value.name in IN_FLIGHT)
        planned = max(planned, live)
        live -= sum(size(value) for value in instr.frees if value.name in IN_FLIGHT)
    spans = [span for span in ran.spans[rank] if span.lane == Lane.COMPUTE]
    before = next(s.memory for s in reversed(spans) if s.step == 1)  # all state exists by then
    return planned, max(s.memory for s in spans if s.step == 2) - before


def test_memory_in_flight_is_what_the_schedule_says(sized):
    """1F1B holds p - r microbatches on rank r, GPipe all m everywhere: in measured live bytes."""
    holds = {n: [most_in_flight(sized[n], r) for r in range(4)] for n in ("gpipe", "1f1b")}
    if any(measured <= 0 for pairs in holds.values() for _, measured in pairs):
        pytest.skip("the allocator of this machine keeps no count")
    for pairs in holds.values():
        for planned, measured in pairs:
            assert measured == pytest.approx(planned, rel=0.25)
    rising = [measured for _, measured in holds["1f1b"]]
    assert rising[0] > 2.5 * rising[3]
    assert all(a > 1.15 * b for a, b in pairwise(rising))
    for (_, whole), some in zip(holds["gpipe"], rising, strict=True):
        assert whole > 1.5 * some


def test_a_stage_is_reduced_while_earlier_ones_still_go_backward(pool):
    """The last stage's gradient is summed over replicas before the first has its own."""
    plan = Plan.of(**SIZED, pp=2, dp=2, schedule="1f1b")
    (ran,) = run_all(pool, [plan], parity=False)
    early = []
    for dp in (0, 1):
        first, last = (plan.mesh.rank(dp=dp, pp=pp) for pp in (0, 1))
        for step in range(3):
            end = max(s.t_done for s in ran.spans[first] if (s.step, s.op) == (step, Op.B))
            begun = next(
                s for s in ran.spans[last]
                if (s.step, s.op, s.where) == (step, Op.ALL_REDUCE, "stage1")
            )  # fmt: skip
            assert begun.t_post < end
            early.append(begun.t_start < end)
    assert sum(early) >= len(early) / 2


@pytest.mark.parametrize("schedule", ["1f1b", "dualpipe", "pipedream"])
def test_a_run_of_no_steps_hands_over_every_stages_weights(schedule, on_ranks, tmp_path):
    """What is saved is the start of one process, to the bit."""
    plan = Plan.of(**TINY, **LLAMA, pp=2, schedule=schedule, layers=3, global_batch=4)
    for n, layout in (("one", plan.single()), ("two", plan)):
        save = {"weights": str(tmp_path / n)}
        args = {"plan": layout.flat(), "steps": 0, "save": save}
        on_ranks(layout.world_size, "parallel_core.runtime:train", **args)
    one, two = (
        {k: w for file in (tmp_path / n).glob("*.safetensors") for k, w in load_file(file).items()}
        for n in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@every_p
def test_every_dress_and_two_replicas(p, pool):
    """The whole table once more: all four dresses, and each case on two replicas."""
    cases = legal(p)
    for dp in (1, 2):
        plans = [
            dressed(name, p, m, dress, dp=dp, global_batch=dp * m)
            for name, m in cases
            for dress in (range(4) if dp == 1 else (m % 4,))
        ]
        for at in range(0, len(plans), 40):
            for ran in run_all(pool, plans[at : at + 40]):
                agrees(ran)

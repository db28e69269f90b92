"""The simulator's times can be worked out on paper; a replay of one rank is the sum of its ops."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core import data
from parallel_core.cost import Link, UnitCost, wire_bytes
from parallel_core.mesh import Mesh
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Op, Program, Value
from parallel_core.replay import fit_link, fit_link_of, model_cost, replay
from parallel_core.report import RunView
from parallel_core.simulate import simulate
from parallel_core.sizes import flops
from parallel_core.trace import Kind, Trace

BEAT = 10**9


def stage(rank: int, op: Op, reads: tuple[Value, ...], writes: tuple[Value, ...]) -> Instr:
    return Instr(op=op, where=f"stage{rank}", mb=0, reads=reads, writes=writes, frees=reads)


def two_stages() -> Program:
    """F on rank 0, its output sent to rank 1, F there: 1 beat, the wire, 1 beat."""
    a, b = Value("a"), Value("b")
    comm = {"lane": Lane.COMM}
    first = (
        stage(0, Op.F, (), (a,)),
        Instr(op=Op.SEND, peer=1, reads=(a,), frees=(a,), **comm),
    )
    second = (
        Instr(op=Op.RECV, peer=0, writes=(a,), **comm),
        stage(1, Op.F, (a,), (b,)),
    )
    return Program(Mesh((("pp", 2),)), (first, second), ((), ()), ((), (b,)))


class WireCost(UnitCost):
    """Unit costs with messages of three beats."""

    def seconds(self, rank: int, instr: Instr) -> float:
        return 3.0 if instr.op == Op.SEND else super().seconds(rank, instr)


@pytest.mark.parametrize("rendezvous", [False, True])
def test_a_message_takes_its_time_and_its_receiver_waits(rendezvous):
    trace = simulate(two_stages(), WireCost(), rendezvous=rendezvous)
    by_op = {(s.rank, s.op): s for s in trace.spans}
    first, send, recv, second = (by_op[at] for at in ((0, "F"), (0, "send"), (1, "recv"), (1, "F")))
    assert (first.t_start, first.t_done) == (0, BEAT)
    assert (send.t_start, send.t_done) == (BEAT, 4 * BEAT)
    assert (recv.t_start, recv.t_done) == (0, 4 * BEAT)
    assert (second.t_start, second.t_done) == (4 * BEAT, 5 * BEAT)
    assert send.peers == recv.peers == (0, 1) and send.seq == recv.seq == 0
    assert trace.kind is Kind.MODELLED


def test_a_collective_starts_with_its_last_rank():
    """The step of two ranks with free messages is the step of one, 6 units of 1 + 2 beats."""
    plan = Plan.of(dp=2, layers=4)
    assert simulate(data.program(plan), UnitCost()).makespan == 18 * BEAT


@given(st.integers(1, 4), st.integers(1, 4), st.floats(1e-5, 1e-2), st.floats(1e7, 1e10))
def test_overlap_helps_and_never_beats_the_longer_lane(layers, mb, alpha, beta):
    """Bucketed is at most naive's time; both lie between each lane alone and their sum."""
    base = Plan.of(dp=4, layers=layers, microbatches=mb, global_batch=4 * mb, bucket_mb=64)
    cost = model_cost(base, link=Link(alpha, beta))
    fast, slow = (
        simulate(data.program(base.but(dp_method=m)), cost) for m in ("bucketed", "naive")
    )
    for trace in (fast, slow):
        lanes = {
            lane: sum(s.duration for s in trace.by_rank[0] if s.lane == lane and s.op != "wait")
            for lane in ("compute", "comm")
        }
        assert max(lanes.values()) <= trace.makespan <= sum(lanes.values()) + 10
    assert fast.makespan <= slow.makespan + 10


def test_memory_rises_with_what_is_kept_and_falls_with_its_backward():
    """Under unit costs memory counts kept forwards: up to layers + 2, and back to none."""
    trace = simulate(data.program(Plan.of(layers=3)), UnitCost())
    held = [s.memory for s in trace.by_rank[0]]
    assert max(held) == 5 and held[-1] == 0


def test_wire_bytes_of_a_ring():
    """2(n-1)/n of the payload a rank for an all-reduce: 96 of 4 x 16 on 4 ranks."""
    assert wire_bytes(Op.ALL_REDUCE, 16, 4) == 96
    assert wire_bytes(Op.ALL_GATHER, 4, 4) == 48 == wire_bytes(Op.REDUCE_SCATTER, 16, 4)


def test_flops_of_a_step_are_six_a_parameter_and_token_plus_attention():
    """6ND for the matrices (Kaplan et al. 2020), 12 s D a token and layer for attention."""
    plan = Plan.of(layers=2, hidden=64, heads=4, seq=32, global_batch=2)
    count = flops(plan)
    program = data.program(plan).ranks[0]
    total = sum(count(i) for i in program if i.op in (Op.F, Op.B))
    m, tokens = plan.model, 64
    per_layer = 4 * m.hidden**2 + 3 * m.hidden * m.mlp
    matrices = 2 * per_layer + m.vocab * m.hidden
    assert total == 6 * matrices * tokens + 2 * 12 * plan.seq * m.hidden * tokens


def measured(times: Trace, *, slower: int = 1, late: int = 0) -> Trace:
    """A simulated trace dressed as a measured one: what a replay reads.

    `slower`: compute took so many times its CPU time on the wall clock, as on a shared core.
    `late`: rank 0 stood ready for each message so many nanoseconds before the others.
    """
    spans = []
    for span in times.spans:
        early = late if span.lane == "comm" and span.rank == 0 else 0
        stretch = (slower - 1) * span.duration if span.lane == "compute" else 0
        spans.append(replace(span, t_start=span.t_start - early, t_done=span.t_done + stretch))
    provenance = replace(times.provenance, kind=Kind.MEASURED)
    return Trace(tuple(spans), provenance, times.world_size)


def test_a_replay_of_one_rank_is_the_sum_of_its_ops():
    plan = Plan.of(microbatches=2)
    view = RunView(plan)
    laid = simulate(view.program, model_cost(plan))
    again = replay(plan, view.program, measured(laid, slower=3))
    assert again.makespan == pytest.approx(sum(s.cpu_ns for s in laid.spans), abs=len(laid.spans))
    assert again.kind is Kind.REPLAYED


def test_a_replay_of_a_run_that_was_one_device_a_rank_gives_that_run_back():
    """Costs read off a simulated run, and its link fitted, reproduce its makespan within 1 %."""
    plan = Plan.of(dp=4, bucket_mb=0.5)
    view = RunView(plan)
    link = Link(alpha=1e-4, beta=5e8)
    laid = simulate(view.program, model_cost(plan, link=link))
    fitted = fit_link(laid, view.program)
    assert fitted.beta == pytest.approx(link.beta, rel=0.05)
    again = replay(plan, view.program, measured(laid, slower=2))
    assert again.makespan == pytest.approx(laid.makespan, rel=0.01)


def test_a_link_is_fitted_from_the_last_to_come():
    """A rank that stood waiting 5 ms for each message has not made the wire any slower."""
    plan = Plan.of(dp=4, bucket_mb=0.5)
    program = data.program(plan)
    laid = simulate(program, model_cost(plan, link=Link(alpha=1e-4, beta=5e8)))
    assert fit_link(measured(laid, late=5_000_000), program) == fit_link(laid, program)


def test_runs_that_are_compared_share_one_link():
    """Two fits of one wire differ by the noise of their runs; over both together there is one."""
    plan = Plan.of(dp=4, bucket_mb=0.5)
    program = data.program(plan)
    fast, slow = (
        simulate(program, model_cost(plan, link=Link(alpha=1e-4, beta=beta))) for beta in (9e8, 3e8)
    )
    shared = fit_link_of([(fast, program), (slow, program)])
    assert 2.9e8 < shared.beta < 9.1e8
    spans = [
        [s.t_done - s.t_start for s in replay(plan, program, measured(t), link=shared).spans]
        for t in (fast, slow)
    ]
    assert spans[0] == pytest.approx(spans[1], abs=2)  # nanoseconds are rounded


def test_traces_read_back_from_json():
    trace = simulate(data.program(Plan.of(dp=2)), UnitCost())
    assert Trace.from_json(trace.to_json()) == trace
    with pytest.raises(ValueError, match="no ShardLab trace"):
        Trace.from_json("[1]")

"""Folded runs equal unfolded ones, or are refused; the all-reduce over a torus, term by term."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from made_up_wire import KB, US, cost, on

from parallel_core.check import check
from parallel_core.collectives import barrier, direct, naive, names, ring
from parallel_core.collectives import pairwise as turns
from parallel_core.collectives.group import Group
from parallel_core.collectives.torus import torus_all_reduce, value_bytes
from parallel_core.cost import ModelCost
from parallel_core.folding import Folded, fold, simulate_folded, spread
from parallel_core.hardware.torus import coordinates, ring_order
from parallel_core.mesh import Mesh
from parallel_core.network import Network
from parallel_core.program import Instr, Lane, Op, Program, ProgramError, Value
from parallel_core.simulate import run_order, simulate

ALIKE = {
    "ring all_reduce": ring.all_reduce,
    "ring all_gather": ring.all_gather,
    "direct one-shot": direct.one_shot,
    "direct two-shot": direct.two_shot,
    "direct all_to_all": direct.all_to_all,
    "pairwise all_to_all": turns.all_to_all,
    "dissemination": barrier.barrier,
}


def same(program: Program, folded: Folded, clock: ModelCost, network: Network | None) -> None:
    for rendezvous in (False, True):
        whole = simulate(program, clock, network=network, rendezvous=rendezvous)
        one = simulate_folded(folded, clock, network=network, rendezvous=rendezvous)
        assert one.makespan == whole.makespan
        seen = [replace(s, source="") for s in spread(folded, one).spans]
        assert seen == [replace(s, source="") for s in whole.spans]


@pytest.mark.parametrize("n", [2, 3, 8, 16])
@pytest.mark.parametrize("name", ALIKE)
def test_folded_equals_unfolded(name, n):
    """Every span of every rank, to the nanosecond: without links, on a mesh, queueing on a ring."""
    program = ALIKE[name](Group(n))
    clock = cost(names.value_sizes(program, n * 5 * KB))
    folded = fold(program, clock)
    for network in (None, on(f"mesh:{n}"), on(f"ring:{n}")):
        same(program, folded, clock, network)


@pytest.mark.parametrize("name", ["ring all_gather", "pairwise all_to_all", "dissemination"])
def test_folded_equals_unfolded_at_64_ranks(name):
    program = ALIKE[name](Group(64))
    clock = cost(names.value_sizes(program, 64 * 5 * KB))
    same(program, fold(program, clock), clock, on("ring:64"))


@pytest.mark.parametrize("shape", [(2,), (5,), (2, 2), (3, 4), (2, 3, 4), (4, 4, 4)])
def test_a_torus_folds_along_its_dimensions(shape):
    folded = torus_all_reduce(shape)
    clock = cost(value_bytes(shape, math.prod(shape) * KB))
    text = "torus:" + "x".join(map(str, shape))
    same(folded.unfold(), folded, clock, on(text))
    assert fold(folded.unfold(), clock).instrs == folded.instrs


def test_a_ring_placed_along_the_torus_folds_by_comparing_its_links():
    program = ring.all_reduce(Group(12))
    clock = cost(names.value_sizes(program, 12 * KB))
    snake = on("torus:4x3", *ring_order(on("torus:4x3").topology))
    same(program, fold(program, clock), clock, snake)


def test_a_collective_in_one_instruction_folds_too():
    """A data-parallel step of many ranks costs what one does."""
    value, summed = Value("grad"), Value("gsum")
    step = (
        Instr(op=Op.B, writes=(value,)),
        Instr(op=Op.ALL_REDUCE, lane=Lane.COMM, axis="dp", reads=(value,), writes=(summed,)),
    )
    folded = Folded(mesh=Mesh((("dp", 4), ("tp", 2))), instrs=step, holds=())
    clock = replace(cost(lambda value: KB), n={"dp": 4})
    same(folded.unfold(), folded, clock, None)


@pytest.mark.parametrize("shape", [(4096,), (16, 16, 16)])
def test_4096_ranks_take_the_time_of_the_formula(shape):
    """A ring through the torus, and dimension by dimension: steps x alpha + 2(n-1)/n S/beta."""
    torus = on("torus:16x16x16").topology
    network = Network(torus, ring_order(torus) if len(shape) == 1 else ())
    size = 4096 * KB
    clock = replace(cost(value_bytes(shape, size)), flops=lambda instr: 0.0)
    took = simulate_folded(torus_all_reduce(shape), clock, network=network).makespan
    steps = 2 * sum(k - 1 for k in shape)
    assert took == pytest.approx(steps * US + 2 * 4095 / 4096 * size, abs=steps)


def test_ranks_that_differ_do_not_fold():
    with pytest.raises(ProgramError, match=r"rank 1.*: only ranks that are alike fold"):
        fold(naive.all_reduce(Group(4)))
    program = ring.all_reduce(Group(4))
    late = replace(program.ranks[2][0], mb=1)
    ranks = (*program.ranks[:2], (late, *program.ranks[2][1:]), program.ranks[3])
    with pytest.raises(ProgramError, match=r"rank 2, instruction 0 .* does something else"):
        fold(replace(program, ranks=ranks))


def test_blocks_of_unequal_size_do_not_fold():
    program = ring.all_reduce(Group(4))
    with pytest.raises(ProgramError, match="takes another time or other bytes"):
        fold(program, cost(names.value_sizes(program, 4 * KB + 1)))
    with pytest.raises(ValueError, match="as 4000 does"):
        value_bytes((4,), 4 * KB + 1)


def test_a_network_that_looks_different_from_every_rank_does_not_fold():
    program = ring.all_reduce(Group(16))
    clock = cost(names.value_sizes(program, 16 * KB))
    with pytest.raises(ProgramError, match="do not look alike from every rank of torus:4x4"):
        simulate_folded(fold(program), clock, network=on("torus:4x4"))
    with pytest.raises(ProgramError, match="do not look alike"):
        simulate_folded(fold(program), clock, network=on("two-level:4x4"))


def test_a_folded_rank_that_sends_before_it_receives_deadlocks_as_all_do():
    there, back = Value("a"), Value("b")
    lane = {"lane": Lane.COMM}
    step = (
        Instr(op=Op.SEND, peer=1, reads=(there,), **lane),
        Instr(op=Op.RECV, peer=3, writes=(back,), **lane),
    )
    folded = Folded(mesh=Mesh((("r", 4),)), instrs=step, holds=(there,))
    clock = cost(lambda value: KB)
    assert simulate_folded(folded, clock).makespan == simulate(folded.unfold(), clock).makespan
    with pytest.raises(ProgramError, match="deadlock: rank 0"):
        simulate_folded(folded, clock, rendezvous=True)


# The all-reduce over a torus


Terms = dict[tuple[int, ...], Counter[int]]
"""Block (a number a dimension) -> how often each rank's term is in it."""


def summed(program: Program, shape: tuple[int, ...]) -> list[dict[Value, Terms]]:
    """What every rank holds in the end, in terms of the blocks that the docstring defines."""
    places = [coordinates(rank, shape) for rank in range(math.prod(shape))]

    def block(rank: int, d: int, j: int) -> int:
        return (places[rank][d] - j) % shape[d]

    store: list[dict[Value, Terms]] = [
        {
            v: {b: Counter([r]) for b in places if b[0] == block(r, 0, v.at[1])}
            for v in program.holds[r]
        }
        for r in range(len(places))
    ]
    wire: dict[tuple[int, int], list[Terms]] = defaultdict(list)
    for together in run_order(program, rendezvous=False):
        for rank, index in together:
            instr = program.ranks[rank][index]
            inputs = [store[rank][v] for v in instr.reads]
            if instr.op == Op.SEND:
                wire[rank, instr.peer].append({b: t for terms in inputs for b, t in terms.items()})
            elif instr.op == Op.RECV:
                store[rank][instr.writes[0]] = wire[instr.peer, rank].pop(0)
            else:
                assert inputs[0].keys() == inputs[1].keys()  # it adds block to block
                total = {b: inputs[0][b] + inputs[1][b] for b in inputs[0]}
                for v in instr.writes:
                    d, j = v.at
                    mine = v.name != "mine" or block(rank, d, j)
                    store[rank][v] = {
                        b: t for b, t in total.items() if v.name != "mine" or b[d] == mine
                    }
    return store


@pytest.mark.parametrize("shape", [(4,), (2, 2), (3, 2), (2, 3, 2)])
def test_every_rank_of_the_torus_ends_with_every_term_once(shape):
    folded = torus_all_reduce(shape)
    program = folded.unfold()
    check(program)
    n = math.prod(shape)
    for held in summed(program, shape):
        result = {b: t for v, terms in held.items() if v.name == "sum" for b, t in terms.items()}
        assert len(result) == n and all(t == Counter(range(n)) for t in result.values())


@pytest.mark.parametrize("shape", [(8,), (4, 2), (2, 2, 2)])
def test_the_torus_sends_what_the_ring_sends_in_fewer_steps(shape):
    """2S(n-1)/n bytes a rank; 2 sum(k - 1) messages."""
    folded, size = torus_all_reduce(shape), value_bytes(shape, 8 * KB)
    sent = [sum(map(size, i.reads)) for i in folded.instrs if i.op == Op.SEND]
    assert sum(sent) == 2 * 7 * KB and len(sent) == 2 * sum(k - 1 for k in shape)


def test_on_one_dimension_the_torus_is_the_ring():
    program = ring.all_reduce(Group(6))
    clock = cost(names.value_sizes(program, 6 * KB))
    whole = simulate(program, clock)
    alone = simulate_folded(torus_all_reduce((6,)), cost(value_bytes((6,), 6 * KB)))
    assert alone.makespan == whole.makespan
    mine = [(s.op, s.t_start, s.t_done, s.bytes, s.peers) for s in alone.spans]
    theirs = [(s.op, s.t_start, s.t_done, s.bytes, s.peers) for s in whole.spans if s.rank == 0]
    assert mine == theirs


def test_a_shape_that_is_no_torus_is_refused():
    for shape in ((), (1, 4), (2,) * 6):
        with pytest.raises(ValueError, match="must be 1 to 5 dimensions of 2 or more ranks"):
            torus_all_reduce(shape)

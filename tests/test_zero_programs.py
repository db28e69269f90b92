"""ZeRO's programs: legal, proved on names, as much traffic and memory as the papers say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core import values as v
from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.data.blocks import blocks
from parallel_core.ledger import predicted_counts, predicted_memory, total_wire_bytes, wire
from parallel_core.outline import KINDS, STATE, Held, agreement, memory_outline
from parallel_core.peak import predicted_peak
from parallel_core.pieces import pieces
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program, ProgramError
from parallel_core.prove import prove
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.sizes import value_bytes

SMALL = {"hidden": 16, "heads": 2, "seq": 8, "vocab": 64, "global_batch": 144}


def plan(**more: Any) -> Plan:
    return Plan.of(**{**SMALL, "layers": 2, "dp": 2, **more})


@st.composite
def plans(draw: Callable[..., Any], stages: tuple[int, ...] = (1, 2, 3)) -> Plan:
    """Small plans over all that ZeRO lets one choose."""
    dp = draw(st.sampled_from([1, 2, 3, 4]))
    shard = draw(st.sampled_from([n for n in range(1, dp + 1) if dp % n == 0]))
    zero = draw(st.sampled_from(stages))
    three = {
        "prefetch": draw(st.integers(0, 6)),
        "keep_gathered": draw(st.booleans()),
    }
    return plan(
        zero=zero,
        dp=dp,
        shard=shard,
        layers=draw(st.integers(1, 3)),
        microbatches=draw(st.integers(1, 3)),
        tied=draw(st.booleans()),
        dialect=draw(st.sampled_from(["gpt", "llama"])),
        clip=draw(st.sampled_from([None, 1.0])),
        bucket_mb=draw(st.sampled_from([0.001, 0.02, 1.0])),
        optimizer=draw(st.sampled_from(["sgd", "adamw"])),
        dtype=draw(st.sampled_from(["float32", "bfloat16"])),
        **(three if zero == 3 else {}),
    )


@settings(max_examples=120, deadline=None)
@given(plans())
def test_every_program_is_legal_and_sums_every_term_once(chosen):
    """Each of the backward's terms reaches the update of its shard, on the ranks that hold it."""
    program = program_of(chosen)
    check(program)
    a_rank = len(pieces(chosen)) * chosen.dp * chosen.microbatches
    tied = chosen.dp * chosen.microbatches if chosen.model.tied else 0
    assert prove(program) == chosen.dp * (a_rank + tied)


# -- faults ---------------------------------------------------------------------------------------


def edited(program: Program, edit: Callable[[Instr], list[Instr]], ranks: Any = None) -> Program:
    """The program with `edit` in the place of each instruction, on all ranks or some."""
    lists = tuple(
        tuple(new for instr in instrs for new in edit(instr)) if ranks in (None, rank) else instrs
        for rank, instrs in enumerate(program.ranks)
    )
    return replace(program, ranks=lists)


def scatter_dropped(instr: Instr) -> list[Instr]:
    return [] if (instr.op, instr.where) == (Op.REDUCE_SCATTER, "layer0") else [instr]


def scatter_alone(instr: Instr) -> list[Instr]:
    if (instr.op, instr.where) != (Op.REDUCE_SCATTER, "layer0"):
        return [instr]
    return [replace(instr, op=Op.ADD, axis=None, inner=())]


def gather_freed_early(instr: Instr) -> list[Instr]:
    early = tuple(r for r in instr.reads if r.name == "full" and instr.op == Op.F)
    return [replace(instr, frees=(*instr.frees, *early))]


def gather_never_freed(instr: Instr) -> list[Instr]:
    return [replace(instr, frees=tuple(f for f in instr.frees if f.name != "full"))]


def shard_added_twice(instr: Instr) -> list[Instr]:
    if instr.op != Op.ADD:
        return [instr]
    again = tuple(r for r in instr.reads if r.name == "gpart")
    return [replace(instr, reads=(*instr.reads, *again))]


def replicas_left_out(instr: Instr) -> list[Instr]:
    if instr.axis != "replica":
        return [instr]
    return [replace(instr, op=Op.ADD, axis=None)]


def replicas_twice(instr: Instr) -> list[Instr]:
    if instr.axis != "replica":
        return [instr]
    between = tuple(v.grad_part(w.at[0], 9) for w in instr.writes)
    return [
        replace(instr, writes=between),
        replace(instr, reads=between, frees=between),
    ]


def shard_never_updated(instr: Instr) -> list[Instr]:
    if instr.op != Op.O:
        return [instr]
    return [replace(instr, reads=tuple(r for r in instr.reads if r != v.shard(1)))]


def gathers_swapped(instr: Instr) -> list[Instr]:
    other = {"layer0": "layer1", "layer1": "layer0"}
    if instr.op != Op.ALL_GATHER:
        return [instr]
    return [replace(instr, where=other.get(instr.where, instr.where))]


HSDP = {"dp": 4, "shard": 2}
FAULTS = [
    (scatter_dropped, {"zero": 2}, None, r"reads gshard\[1,0\], which nothing on this rank writes"),
    (scatter_alone, {"zero": 2}, None, r"layer0 from rank [01], microbatch 0, 0 times"),
    (scatter_dropped, {"zero": 3}, 1, r"rank 1, .* reads gshard\[1,0\], which nothing"),
    (gather_freed_early, {"zero": 3, "keep_gathered": True}, None, r"uses full\[3,3\] after"),
    (gather_never_freed, {"zero": 3}, None, r"rank 0 never frees full\[0,0\]"),
    (shard_added_twice, {"zero": 2, "microbatches": 2}, None, r"microbatch 1, 2 times; once"),
    (replicas_left_out, {"zero": 3, **HSDP}, None, r"from rank 2, microbatch 0, 0 times"),
    (replicas_twice, {"zero": 2, **HSDP}, None, r"microbatch 0, 2 times; once is right"),
    (shard_never_updated, {"zero": 3}, None, r"rank 0 never updates layer0, whose gradient"),
    (gathers_swapped, {"zero": 3}, 1, r"collectives on dp differ: .* layer0.* meets .* layer1"),
]


@pytest.mark.parametrize(
    ("fault", "more", "rank", "words"), FAULTS, ids=[case[0].__name__ for case in FAULTS]
)
def test_a_fault_in_a_program_is_refused_with_one_sentence(fault, more, rank, words):
    """By `check` if the program cannot run, by `prove` if it would run and be wrong."""
    program = program_of(plan(**more))
    with pytest.raises(ProgramError, match=words) as caught:
        broken = edited(program, fault, rank)
        check(broken)
        prove(broken)
    assert "\n" not in str(caught.value)


# -- traffic --------------------------------------------------------------------------------------


def wire_of(chosen: Plan) -> int:
    counts = predicted_counts(program_of(chosen), value_bytes(chosen), 1)
    return total_wire_bytes(wire(counts, chosen.mesh.degree))


@pytest.mark.parametrize("dp", [2, 4])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_traffic_in_units_of_the_model(dp, m):
    """2Ψ, 2Ψ, (m+1)Ψ, 3mΨ; a Ψ is what one reduce-scatter of everything moves, (n-1)/n a rank."""
    base = {"dp": dp, "microbatches": m}
    psi = sum(p.numel for p in pieces(plan())) * 4 * (dp - 1)
    moved = [wire_of(plan(**base, zero=zero)) for zero in (0, 1, 2, 3)]
    assert [total / psi for total in moved] == [2, 2, m + 1, 3 * m]
    kept = wire_of(plan(**base, zero=3, keep_gathered=True))
    assert kept / psi == 2 * m


def test_stage_3_costs_one_and_a_half_times_the_traffic():
    """Exactly, at one microbatch: every unit gathered twice and scattered once."""
    assert wire_of(plan(zero=3)) / wire_of(plan()) == 1.5


def test_hsdp_moves_shards_between_the_groups():
    """Inside a group as ZeRO does; across, an all-reduce of one shard of everything."""
    chosen = plan(dp=4, shard=2, zero=2)
    counts = predicted_counts(program_of(chosen), value_bytes(chosen), 1)
    table = wire(counts, chosen.mesh.degree)
    psi = sum(p.numel for p in pieces(chosen)) * 4
    assert {op: row["wire_bytes"] for op, row in table["shard"].items()} == {
        "reduce_scatter": 2 * psi,  # two groups of two, each (n-1)Ψ
        "all_gather": 2 * psi,
    }
    assert table["replica"]["all_reduce"]["wire_bytes"] == 2 * psi


@settings(max_examples=40, deadline=None)
@given(plans(stages=(3,)))
def test_every_use_has_its_own_gather(chosen):
    """Two a unit and microbatch, one where the forward's stays; a tied table twice as many."""
    program = program_of(chosen)
    gathers = Counter(i.writes[0].at[0] for i in program.ranks[0] if i.op == Op.ALL_GATHER)
    uses = chosen.microbatches * (1 if chosen.keep_gathered else 2)
    wanted = {u: uses for u in range(len(pieces(chosen)))}
    wanted[0] *= 2 if chosen.model.tied else 1
    assert gathers == wanted


# -- memory ---------------------------------------------------------------------------------------


def sizes(chosen: Plan) -> tuple[dict[int, int], dict[int, int], int]:
    """By unit the bytes of its padded block and of a shard of it; bytes of all own shards."""
    width = 2 if chosen.dtype == "bfloat16" else 4
    cut = {block.units[0]: block for block in blocks(chosen)}
    whole = {u: block.padded * width for u, block in cut.items()}
    shard = {u: block.shard * width for u, block in cut.items()}
    return whole, shard, sum(shard.values())


def most_of_stage_3(chosen: Plan) -> int:
    """Own shards, and the weights of prefetch + 1 uses that follow one another."""
    whole, _, own = sizes(chosen)
    last = max(whole)
    once = [*range(last + 1), *reversed(range(last + 1))]
    need = {u: whole[u] + (whole[0] if chosen.model.tied and u == last else 0) for u in whole}
    uses = [need[u] for _ in range(chosen.microbatches) for u in once]
    window = chosen.prefetch + 1
    return own + max(sum(uses[t : t + window]) for t in range(len(uses)))


def most_of_gradients(chosen: Plan) -> int:
    """Own shards, two blocks that follow one another, and where the first one's sum lands if it is
    one of several: a single one lands among the own shards. A tied table's block is begun by the
    head, is there beside every pair, and is what the embedding's backward ends in."""
    whole, shard, own = sizes(chosen)
    order = [*reversed(range(max(whole) + 1))] * chosen.microbatches
    several = chosen.microbatches > 1
    pairs = [
        whole[a] + whole[b] + several * shard[a] + (whole[0] if chosen.model.tied and b else 0)
        for a, b in pairwise(order)
    ]
    return own + max(pairs)


@settings(max_examples=100, deadline=None)
@given(plans(stages=(3,)))
def test_stage_3_holds_its_prefetch_window(chosen):
    """Whatever the timing; `keep_gathered` holds everything at the turn."""
    most = predicted_peak(chosen, program_of(chosen))["params"]
    if not chosen.keep_gathered:
        assert most == [most_of_stage_3(chosen)] * chosen.dp
        return
    whole, _, own = sizes(chosen)
    everything = own + sum(whole.values()) + (whole[0] if chosen.model.tied else 0)
    assert set(most) == {max(everything, min(max(most), most_of_stage_3(chosen)))}


@settings(max_examples=100, deadline=None)
@given(plans(stages=(2, 3)))
def test_from_stage_2_on_two_blocks_of_gradient_are_whole_at_most(chosen):
    """And a tied table's, which is begun by the head and ended by the embedding."""
    most = predicted_peak(chosen, program_of(chosen))["grads"]
    assert most == [most_of_gradients(chosen)] * chosen.dp


def test_without_its_waits_stage_2_would_hold_every_gradient():
    """The planted fault of the claim above: nothing else keeps the compute lane from running on."""
    chosen = plan(zero=2, layers=3)
    program = program_of(chosen)
    free = edited(program, lambda i: [] if i.op == Op.WAIT and i.mb is not None else [i])
    check(free)
    whole, _, own = sizes(chosen)
    assert predicted_peak(chosen, program)["grads"][0] == most_of_gradients(chosen)
    assert predicted_peak(chosen, free)["grads"][0] >= own + sum(whole.values())


def test_without_its_marks_stage_3_would_gather_everything():
    """Gathers that wait for no use before them run ahead of the forward: all weights, and more."""
    chosen = plan(zero=3, layers=3)

    def unmarked(instr: Instr) -> list[Instr]:
        def bare(some: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(x for x in some if x.name != "used")

        return [
            replace(
                instr, reads=bare(instr.reads), writes=bare(instr.writes), frees=bare(instr.frees)
            )
        ]

    free = edited(program_of(chosen), unmarked)
    check(free)
    whole, _, own = sizes(chosen)
    assert predicted_peak(chosen, program_of(chosen))["params"][0] == most_of_stage_3(chosen)
    assert predicted_peak(chosen, free)["params"][0] > own + sum(whole.values())


def test_what_stays_on_a_rank():
    """Stage 1 shards the optimizer, 2 the gradients too, 3 the weights too (ZeRO, figure 1)."""
    psi = sum(p.numel for p in pieces(plan())) * 4
    share = {zero: predicted_memory(plan(zero=zero, dp=4)) for zero in (0, 1, 2, 3)}
    fractions = {z: [m[kind][0] / psi for kind in STATE] for z, m in share.items()}
    assert fractions == {
        0: [1, 1, 2],
        1: [1, 1, 0.5],
        2: [1, 0.25, 0.5],
        3: [0.25, 0.25, 0.5],
    }


def outlined(chosen: Plan) -> tuple[Program, Any, tuple[Held, ...]]:
    program = program_of(chosen)
    trace = simulate(program, model_cost(chosen))
    return program, trace, memory_outline(chosen, program, trace)


@settings(max_examples=60, deadline=None)
@given(plans())
def test_the_outline_ends_with_what_stays_and_never_passes_the_peak(chosen):
    """A row an instruction; after the last one only the resident bytes are left."""
    program, trace, rows = outlined(chosen)
    assert len(rows) == sum(map(len, program.ranks)) == len(trace.spans)
    resident, most = predicted_memory(chosen), predicted_peak(chosen, program)
    for rank in range(chosen.dp):
        mine = [row for row in rows if row.rank == rank]
        assert [row.t for row in mine] == sorted(row.t for row in mine)
        assert {kind: mine[-1][kind] for kind in STATE} == {k: resident[k][rank] for k in STATE}
        assert mine[-1].activations == 0
        for kind in KINDS:
            assert max(row[kind] for row in mine) <= most[kind][rank]
        assert max(sum(row[kind] for kind in KINDS) for row in mine) <= most["total"][rank]


@settings(max_examples=30, deadline=None)
@given(plans())
def test_an_outline_agrees_with_itself(chosen):
    """Every boundary is compared, and one byte too many anywhere is named."""
    program, trace, rows = outlined(chosen)
    compute = {(s.rank, s.index) for s in trace.spans if s.lane == "compute"}
    found = agreement(chosen, program, trace, rows)
    assert found.exact + found.open_ == len(compute) and found.differences == ()
    wrong = [replace(row, grads=row.grads + 1) for row in rows]
    assert len(agreement(chosen, program, trace, wrong).differences) >= found.exact


def test_a_difference_is_a_sentence():
    chosen = plan(zero=1)
    program, trace, rows = outlined(chosen)
    wrong = [replace(row, params=0) for row in rows]
    first = agreement(chosen, program, trace, wrong).differences[0]
    whole = predicted_memory(chosen)["params"][0]
    words = (
        f"rank 0, step 0, after F embed mb0: 0 bytes of params, where the outline says {whole:,}"
    )
    assert first == words

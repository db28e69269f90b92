"""Where messages stand inside a task, and what of its work waits for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.assemble import program as program_of
from parallel_core.inner_shares import work
from parallel_core.inside import opened
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program
from parallel_core.sizes import flops


def tasks(program: Program) -> Iterator[Instr]:
    """The compute instructions that have messages inside."""
    return (i for i in program.ranks[0] if i.inner and not i.op.is_message)


shapes = st.builds(
    lambda tp, sp, kv, dialect, cp: Plan.of(
        tp=tp, sp=sp and tp > 1, kv_heads=kv if dialect == "llama" else None, dialect=dialect, cp=cp
    ),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.sampled_from([4, 2, 1]),
    st.sampled_from(["llama", "gpt"]),
    st.sampled_from([1, 2]),
)


@given(shapes)
@settings(max_examples=50, deadline=None)
def test_the_work_that_is_shared_out_is_the_work_of_a_layer(plan):
    """Product by product it adds up to the FLOPs that the weights of a rank ask for."""
    assert work(plan).total == pytest.approx(flops(plan)(Instr(op=Op.F, where="layer0")), rel=1e-12)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_message_stands_where_the_products_before_it_say(overlap):
    """By hand, in multiply-adds a token: q, k and v, the core, o, gate and up, down. A backward
    does each twice, for dx and for dw."""
    d, s, f = 64, 32, 96
    plan = Plan.of(tp=2, sp=True, overlap_tp=overlap, layers=1, hidden=d, ffn=f, seq=s)
    qkv, core, out, into, down = 3 * d * d, 2 * s * d, d * d, 2 * d * f, d * f
    wanted = {
        (Op.F, False): [(0, 0), (qkv + core + out, 0), (0, 0), (into + down, 0)],
        (Op.F, True): [(0, qkv), (core + out, 0), (0, into), (down, 0)],
        (Op.B, False): [
            (0, 0), (2 * down, 0), (2 * into, 0),
            (0, 0), (2 * (out + core), 0), (2 * qkv, 0),
        ],
        (Op.B, True): [
            (0, down), (down, into), (0, into), (0, out), (out + 2 * core, qkv), (0, qkv),
        ],
    }  # fmt: skip
    whole = {Op.F: qkv + core + out + into + down}
    whole[Op.B] = 2 * whole[Op.F]
    for task in tasks(program_of(plan)):
        if task.where == "layer0":
            told = [part for m in task.inner for part in (m.before, m.under)]
            hand = [part / whole[task.op] for row in wanted[task.op, overlap] for part in row]
            assert told == pytest.approx(hand, abs=0.0006), task.label


def test_under_a_gather_tiles_wait_hop_by_hop_and_under_a_scatter_nothing_waits():
    """The rank's own tile needs no hop, the next one the first; dw needs none of dx's scatter."""
    plan = Plan.of(tp=4, sp=True, overlap_tp=True, layers=1)
    whole = opened(program_of(plan))
    for task in tasks(program_of(plan)):
        rows = [
            (instr, part.message)
            for instr, part in zip(whole.program.ranks[0], whole.parts[0], strict=True)
            if part.of == task
        ]
        marks = {instr.writes[0]: (number, instr) for instr, number in rows if number is not None}
        for number, message in enumerate(task.inner):
            if not message.under:
                continue
            hops = [instr.writes[0] for instr, at in rows if at == number]
            after = rows[[at for _, at in rows].index(number) :]
            count = 4 if message.op == Op.ALL_GATHER else 1
            under = [instr for instr, at in after if at is None][:count]
            waits = [[hops.index(v) for v in instr.reads if v in hops] for instr in under]
            if message.op == Op.ALL_GATHER:
                assert waits == [[], [0], [1], [2]], (task.label, number)
            else:
                assert waits == [[]] and len(hops) == 1, (task.label, number)
            assert all(marks[hop][1].op == message.op for hop in hops)

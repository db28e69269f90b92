"""A program is data: it reads back from its text, and a broken one is told why in a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core import data
from parallel_core.check import check
from parallel_core.mesh import Mesh
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Message, Op, Program, ProgramError, Value
from parallel_core.prove import prove

names = st.from_regex(r"[a-z]\w{0,5}", fullmatch=True).filter(str.isascii)
values = st.builds(Value, names, st.lists(st.integers(0, 99), max_size=3).map(tuple))
some = st.lists(values, max_size=3).map(tuple)
instrs = st.builds(
    Instr,
    op=st.sampled_from(Op),
    where=st.just("") | names.filter(lambda n: not n.startswith("mb")),
    mb=st.none() | st.integers(0, 9),
    lane=st.sampled_from(Lane),
    reads=some,
    writes=some,
    frees=some,
    axis=st.none() | st.sampled_from(["dp", "tp"]),
    peer=st.none() | st.integers(0, 9),
    inner=st.lists(st.builds(Message, st.sampled_from(Op), names, values), max_size=2).map(tuple),
)
plans = st.builds(
    lambda dp, m, layers, tied, method, mb: Plan.of(
        dp=dp, microbatches=m, layers=layers, tied=tied, dp_method=method, bucket_mb=mb,
        global_batch=dp * m, hidden=16, heads=2, seq=8,
    ),
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.booleans(),
    st.sampled_from(["naive", "bucketed"]), st.sampled_from([0.001, 0.01, 1.0]),
)  # fmt: skip


@given(instrs)
def test_an_instruction_reads_back_from_its_text(instr):
    assert Instr.parse(str(instr)) == instr


@given(st.lists(instrs, max_size=4), some, some)
def test_a_program_reads_back_from_text_and_json(rank, holds, keeps):
    program = Program(Mesh((("dp", 2),)), (tuple(rank), ()), (holds, keeps), (keeps, ()), "a b")
    assert Program.parse(str(program)) == program
    assert Program.from_json(program.to_json()) == program


@given(plans)
def test_every_step_is_legal_and_sums_every_term_once(plan):
    """Both methods, any accumulation and bucket size; the number of terms is known on paper."""
    program = data.program(plan)
    check(program)
    per_rank = (plan.model.layers + 2 + plan.model.tied) * plan.microbatches
    assert prove(program) == per_rank * plan.dp * plan.dp


def edited(program: Program, rank: int, change) -> Program:
    ranks = list(program.ranks)
    ranks[rank] = tuple(change(list(ranks[rank])))
    return replace(program, ranks=tuple(ranks))


def drop(label: str):
    return lambda instrs: [i for i in instrs if i.label != label]


def swap(first: str, second: str):
    def change(instrs):
        at = {i.label: n for n, i in enumerate(instrs)}
        instrs[at[first]], instrs[at[second]] = instrs[at[second]], instrs[at[first]]
        return instrs

    return change


def change_one(label: str, **new):
    return lambda instrs: [replace(i, **new) if i.label == label else i for i in instrs]


def free_early(instrs):
    """Let the comm lane free weights that the compute lane reads a little later."""
    at = next(n for n, i in enumerate(instrs) if i.label == "all_reduce loss")
    late = next(n for n, i in enumerate(instrs) if i.label == "B layer0 mb0")
    gone = Value("w", (1,))
    reads = tuple(v for v in instrs[-1].reads if v != gone)
    early = replace(instrs[at], reads=(*instrs[at].reads, gone), frees=(*instrs[at].frees, gone))
    last = replace(instrs[-1], reads=reads, frees=reads)
    return [*instrs[:at], *instrs[at + 1 : late + 1], early, *instrs[late + 1 : -1], last]


ILLEGAL = {
    "freed while another lane reads": (free_early, "on the compute lane may still read it"),
    "read before written": (swap("F layer0 mb0", "F layer1 mb0"), "reads act[0,1] before"),
    "read of nothing": (drop("F layer0 mb0"), "reads act[0,1], which nothing on this rank writes"),
    "never freed": (drop("O weights"), "never frees"),
    "freed twice": (
        lambda instrs: [*instrs[:-1], replace(instrs[-2], frees=instrs[-2].reads), instrs[-1]],
        "freed it",
    ),
    "written twice": (lambda instrs: [*instrs, instrs[0]], "a second time"),
    "collective missing": (drop("all_reduce loss"), "never frees loss[0]"),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_program_is_told_why(name):
    """One sentence with the rank and what to do, for each rule."""
    change, words = ILLEGAL[name]
    program = data.program(Plan.of(dp=2, layers=2, bucket_mb=0.5))
    with pytest.raises(ProgramError) as error:
        check(edited(program, 1, change))
    assert words in str(error.value)
    assert "rank 1" in str(error.value) or "rank 0" in str(error.value)
    assert "\n" not in str(error.value)


def test_collectives_in_another_order_are_named_on_both_ranks():
    program = data.program(Plan.of(dp=2, layers=2, bucket_mb=0.1))
    order = swap("all_reduce bucket0", "all_reduce bucket1")

    def late(instrs):
        swapped = order(instrs)
        return sorted(swapped, key=lambda i: i.op == Op.WAIT or i.op == Op.O)

    with pytest.raises(ProgramError, match=r"before|differ") as error:
        check(edited(program, 1, late))
    assert "rank 1" in str(error.value)


def test_a_forgotten_reduction_is_named():
    """A bucket that one method forgets leaves every other rank's terms out of the sum."""
    program = data.program(Plan.of(dp=2, layers=1, bucket_mb=0.01))

    def forget(instrs):
        return [
            replace(i, op=Op.ADD, lane=Lane.COMPUTE, axis=None) if i.label == last else i
            for i in instrs
        ]

    last = max(i.label for i in program.ranks[0] if i.where.startswith("bucket") and i.axis)
    both = edited(edited(program, 0, forget), 1, forget)
    check(both)  # legal it is
    with pytest.raises(ProgramError, match="0 times; once is right"):
        prove(both)


def test_a_gradient_summed_twice_is_named():
    """Summing before accumulation is over counts the first microbatch once too often."""
    program = data.program(Plan.of(dp=2, layers=1, microbatches=2, bucket_mb=0.01))

    def twice(instrs):
        at = next(n for n, i in enumerate(instrs) if i.label == "B head mb1")
        early = Instr(
            op=Op.ALL_REDUCE, where="early", lane=Lane.COMM, axis="dp",
            reads=(Value("grad", (2, 0)),), writes=(Value("grad", (2, 9)),),
            frees=(Value("grad", (2, 0)),),
        )  # fmt: skip
        b = instrs[at]
        fixed = tuple(Value("grad", (2, 9)) if r == Value("grad", (2, 0)) else r for r in b.reads)
        freed = tuple(Value("grad", (2, 9)) if r == Value("grad", (2, 0)) else r for r in b.frees)
        return [*instrs[:at], early, replace(b, reads=fixed, frees=freed), *instrs[at + 1 :]]

    both = edited(edited(program, 0, twice), 1, twice)
    check(both)
    with pytest.raises(ProgramError, match="2 times; once is right"):
        prove(both)


def send(peer: int, value: str) -> Instr:
    return Instr(op=Op.SEND, peer=peer, reads=(Value(value),), frees=(Value(value),))


def recv(peer: int, value: str) -> Instr:
    return Instr(op=Op.RECV, peer=peer, writes=(Value(value),))


def test_two_sends_that_wait_for_each_other_are_a_deadlock_under_rendezvous():
    """The sentence says where each rank stands."""
    ranks = ((send(1, "a"), recv(1, "b")), (send(0, "a"), recv(0, "b")))
    holds, keeps = ((Value("a"),),) * 2, ((Value("b"),),) * 2
    with pytest.raises(ProgramError, match=r"deadlock: rank 0 .* waits at send <>1; rank 1"):
        check(Program(Mesh((("pp", 2),)), ranks, holds, keeps))
    crossed = (ranks[0], ranks[1][::-1])
    check(Program(Mesh((("pp", 2),)), crossed, holds, keeps))


def test_a_receive_without_a_send_is_counted():
    ranks = ((send(1, "a"),), (recv(0, "b"), recv(0, "c")))
    holds, keeps = ((Value("a"),), ()), ((), (Value("b"), Value("c")))
    with pytest.raises(ProgramError, match="from rank 0 to rank 1 there are 1 more receives"):
        check(Program(Mesh((("pp", 2),)), ranks, holds, keeps))


def test_messages_of_a_pair_arrive_in_the_order_they_are_sent():
    """NCCL ignores tags: a receive that expects the second message first gets the wrong tensor."""
    first = [replace(send(1, name), mb=mb) for mb, name in enumerate("ab")]
    second = [replace(recv(0, name), mb=mb) for mb, name in enumerate("cd")]
    holds, keeps = ((Value("a"), Value("b")), ()), ((), (Value("c"), Value("d")))
    mesh = Mesh((("pp", 2),))
    check(Program(mesh, (tuple(first), tuple(second)), holds, keeps))
    with pytest.raises(ProgramError, match=r"sends a where rank 1, instruction 0 .* expects d"):
        check(Program(mesh, (tuple(first), tuple(second[::-1])), holds, keeps))


def test_a_value_named_twice_in_one_free_is_told():
    once = Instr(op=Op.ADD, reads=(Value("a"),), frees=(Value("a"), Value("a")))
    with pytest.raises(ProgramError, match="frees a value twice"):
        check(Program(Mesh((("pp", 1),)), ((once,),), ((Value("a"),),), ((),)))


def test_a_bucket_closes_when_it_holds_exactly_its_size():
    """The head and layer1 of this model fill the bucket to the byte: layer0 opens the next."""
    from parallel_core.data.bucketed import buckets
    from parallel_core.data.step import specs_by_unit

    plan = Plan.of(layers=2, dp=2)
    specs = specs_by_unit(plan)
    full = sum(s.numel for u in (3, 2) for s in specs[u]) * 4
    assert buckets(plan.but(bucket_mb=full / 2**20))[0] == (3, 2)
    assert buckets(plan.but(bucket_mb=(full + 1) / 2**20))[0] == (3, 2, 1)

"""What a proof of pipelines is worth: a fault planted in a program or a kernel turns it red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.plan import Plan
from parallel_core.program import Instr, Op, Program, ProgramError, Value
from parallel_core.prove import prove
from parallel_core.report import ledger

SMALL = {
    "layers": 2, "hidden": 16, "heads": 4, "seq": 16, "vocab": 32, "dtype": "float64",
    "optimizer": "sgd", "pp": 2, "microbatches": 4, "global_batch": 8,
}  # fmt: skip
live = pytest.mark.live


def edited(program: Program, edit: Callable[[list[Instr]], list[Instr]], *only: int) -> Program:
    """The program with some ranks' instructions changed; all of them where none is named."""
    ranks = (
        tuple(edit([*instrs])) if rank in only or not only else instrs
        for rank, instrs in enumerate(program.ranks)
    )
    return replace(program, ranks=tuple(ranks))


def renamed(instr: Instr, names: dict[Value, Value]) -> Instr:
    reads, frees = (tuple(names.get(x, x) for x in side) for side in (instr.reads, instr.frees))
    return replace(instr, reads=reads, frees=frees)


def without_exchange(instrs: list[Instr]) -> list[Instr]:
    """A rank that keeps its own gradient where another has a copy of the weights."""
    adds = [i for i in instrs if i.op == Op.ADD and {x.name for x in i.reads} & {"came", "tcame"}]
    own = {add.writes[0]: add.reads[0] for add in adds}
    gone = [(add.where, op) for add in adds for op in (Op.SEND, Op.RECV)]
    mbs = [i for i in instrs if i.mb is None and (i.where, i.op) in gone]
    return [renamed(i, own) for i in instrs if i not in adds and i not in mbs]


@pytest.mark.parametrize(
    ("plan", "term"),
    [({"schedule": "1f1b", "tied": True}, r"stage\d"), ({"schedule": "dualpipe"}, r"stage\d")],
    ids=["tied table", "two copies"],
)
def test_an_exchange_left_out_is_named(plan, term):
    """Legal it is, but terms of the other copy never come."""
    program = program_of(Plan.of(**SMALL, **plan))
    assert prove(program)
    faulty = edited(program, without_exchange)
    check(faulty)
    with pytest.raises(ProgramError, match=rf"gradient of {term}.* 0 times; once is right"):
        prove(faulty)


def early_reduction(instrs: list[Instr]) -> list[Instr]:
    """Every stage summed over ranks before its last backward."""
    found: list[Instr] = []
    for instr in instrs:
        if instr.op == Op.B and instr.mb == SMALL["microbatches"] - 1:
            (before,) = (x for x in instr.reads if x.name == "grad")
            stage = before.at[0]
            late = next(i for i in instrs if i.op == Op.ALL_REDUCE and i.where == instr.where)
            total = Value("grad", (stage, 99))
            found.append(replace(late, reads=(before,), frees=(before,), writes=(total,)))
            found.append(renamed(instr, {before: total}))
        elif instr.where in ("stage0", "stage1") and instr.op in (Op.ALL_REDUCE, Op.WAIT):
            continue
        else:
            last = {Value("gsum", (s,)): Value("grad", (s, 3)) for s in (0, 1)}
            found.append(renamed(instr, last))
    return found


def test_a_reduction_before_the_last_microbatch_is_named():
    """The last microbatch of the other replica never comes."""
    plan = Plan.of(**SMALL, dp=2, schedule="1f1b")
    faulty = edited(program_of(plan), early_reduction)
    check(faulty)
    with pytest.raises(ProgramError, match="microbatch 3, 0 times; once is right"):
        prove(faulty)


def test_a_chain_of_weight_halves_that_is_cut_is_named():
    """A W that starts a gradient anew drops what the ones before it had summed."""

    def cut(instrs: list[Instr]) -> list[Instr]:
        at = next(n for n, i in enumerate(instrs) if i.op == Op.W and i.mb == 2)
        kept = tuple(x for x in instrs[at].reads if x.name != "grad")
        return [*instrs[:at], replace(instrs[at], reads=kept, frees=kept[:1]), *instrs[at + 1 :]]

    program = program_of(Plan.of(**SMALL, schedule="zb-h1"))
    with pytest.raises(ProgramError, match="microbatch 0, 0 times; once is right"):
        prove(edited(program, cut, 0))


def test_a_weight_half_left_out_is_named():
    """What I kept for it is never freed."""

    def skip(instrs: list[Instr]) -> list[Instr]:
        at = next(n for n, i in enumerate(instrs) if i.op == Op.W and i.mb == 1)
        old, new = instrs[at].writes[0], next(x for x in instrs[at].reads if x.name == "grad")
        return [renamed(i, {old: new}) for n, i in enumerate(instrs) if n != at]

    program = program_of(Plan.of(**SMALL, schedule="zb-h1"))
    with pytest.raises(ProgramError, match=r"rank 0 never frees held\[1,0\]"):
        check(edited(program, skip, 0))


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1", "interleaved", "dualpipe"])
def test_two_messages_in_the_wrong_order_are_refused(schedule):
    """NCCL's rule: what a pair of ranks sends, arrives in that order."""

    def swap(instrs: list[Instr]) -> list[Instr]:
        sends = [n for n, i in enumerate(instrs) if i.op == Op.SEND and i.reads[0].name == "act"]
        one = sends[0]
        lane, peer = instrs[one].lane, instrs[one].peer
        two = next(n for n in sends[1:] if (instrs[n].lane, instrs[n].peer) == (lane, peer))
        instrs.insert(two, instrs.pop(one))  # behind the second, where both values are made
        return instrs

    program = program_of(Plan.of(**SMALL, schedule=schedule))
    check(program)
    with pytest.raises(ProgramError, match="arrive in the order they are sent"):
        check(edited(program, swap, 0))


FAULTS = [
    ("skipped W", {"schedule": "zb-h1"}),
    ("wrong microbatch", {"schedule": "1f1b"}),
    ("divided twice", {"schedule": "gpipe"}),
    ("skipped exchange", {"schedule": "1f1b", "tied": True}),
    ("skipped exchange", {"schedule": "dualpipe"}),
    ("early reduction", {"schedule": "1f1b", "dp": 2}),
]


def trained(on_ranks: Any, fault: str, **flat: Any) -> tuple[Plan, list[Any]]:
    plan = Plan.of(**SMALL | flat)
    args = {"plan": plan.flat(), "steps": 2, "fault": fault}
    return plan, on_ranks(plan.world_size, "pipeline_targets:train_with_fault", **args)


@live
@pytest.mark.parametrize(("fault", "flat"), FAULTS, ids=[f"{f} {p['schedule']}" for f, p in FAULTS])
def test_a_wrong_gradient_turns_the_parity_red(fault, flat, on_ranks):
    """The same plan without the fault is green: the fault is all that differs."""
    plan, results = trained(on_ranks, fault, **flat)
    assert results[0]["parity"]["errors"]["gradients"] > 1e-3
    wire = ledger(plan, results, 2)["wire"]
    assert wire["measured"] == wire["predicted"]  # nothing else would have told
    _, results = trained(on_ranks, "none", **flat)
    assert results[0]["parity"]["max_rel_error"] <= 1e-10


@live
def test_a_leaked_output_turns_the_memory_red(on_ranks):
    """Two outputs a microbatch stay on rank 0 after two steps; the last stage hands on a loss."""
    plan, results = trained(on_ranks, "leaked output", schedule="1f1b")
    differences = ledger(plan, results, 2)["comm_buffers"]["differences"]
    output = plan.rows_per_microbatch * plan.seq * plan.model.hidden * 8
    forwards = 2 * plan.microbatches
    assert [(d["rank"], d["bytes"]) for d in differences] == [(0, forwards * output)]


@live
def test_an_activation_kept_too_many_is_named(on_ranks):
    plan, results = trained(on_ranks, "kept activation", schedule="zb-h1")
    output = plan.rows_per_microbatch * plan.seq * plan.model.hidden * 8
    differences = ledger(plan, results, 2)["activations"]["differences"]
    assert {d["unit"]: d["bytes"] for d in differences} == {"stage0": output, "stage1": output}


@live
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1"])
def test_an_output_is_freed_once_it_is_sent(schedule, on_ranks):
    """Long before its backward; a kernel that keeps it is found out."""
    plan = Plan.of(**SMALL, schedule=schedule).flat()
    gone = on_ranks(2, "pipeline_targets:outputs_gone", plan=plan, keep=False)
    assert gone == [[True] * 4, []]
    gone = on_ranks(2, "pipeline_targets:outputs_gone", plan=plan, keep=True)
    assert gone == [[False] * 4, []]


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_a_backward_that_is_not_there_is_missed(schedule):
    """A forward wants its gradient: the proof does not count only what backwards happen to make."""
    program = program_of(Plan.of(**SMALL, schedule=schedule))
    assert prove(program)
    last = max(
        i for i, instr in enumerate(program.ranks[0]) if instr.op in (Op.B, Op.W) and instr.mb
    )
    gone = program.ranks[0][last]
    before = next(value for value in gone.reads if value.name == "grad")
    after = next(value for value in gone.writes if value.name == "grad")
    rest = [
        replace(i, **{k: tuple(before if x == after else x for x in getattr(i, k)) for k in FLOW})
        for i in program.ranks[0][:last] + program.ranks[0][last + 1 :]
    ]
    with pytest.raises(ProgramError, match=f"{gone.where} from rank 0, microbatch {gone.mb}"):
        prove(replace(program, ranks=(tuple(rest), *program.ranks[1:])))


FLOW = ("reads", "writes", "frees")

"""A tensor-parallel model on real ranks is the whole model: loss, every gradient, the messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
from pipeline_runs import run_all

from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.cli.summary import print_summary
from parallel_core.ledger import predicted_counts, wire
from parallel_core.plan import Plan, PlanError
from parallel_core.program import Instr, Program, ProgramError
from parallel_core.prove import prove
from parallel_core.report import RunView
from parallel_core.sizes import value_bytes

SMALL = {"hidden": 32, "heads": 4, "seq": 16, "vocab": 64, "layers": 2, "dtype": "float64"}
SMALL |= {"global_batch": 2, "ffn": 48}
MODELS = [
    {"dialect": "llama"},
    {"dialect": "llama", "kv_heads": 2, "tied": True},
    {"dialect": "llama", "kv_heads": 1},
    {"dialect": "gpt"},
    {"dialect": "gpt", "tied": True, "dropout": 0.2},
]
CASES = [
    {"plan": {**SMALL, **model}, "sequence": sequence}
    for model, sequence in product(MODELS, (False, True))
]


@pytest.mark.live
@pytest.mark.parametrize("n", [1, 2, 4])
def test_every_slice_has_the_gradient_of_the_whole(n, on_ranks):
    """Loss and each gradient, sharded, replicated or held in copies, in float64 to 1e-11."""
    for told in on_ranks(n, "tensor_targets:beside_the_whole", cases=CASES):
        for case, found in zip(CASES, told, strict=True):
            assert found["loss"] < 1e-12, case
            bad = {k: v for k, v in found["worst"].items() if v > 1e-10 and "k.bias" not in k}
            assert not bad, (case, bad)


@pytest.mark.live
def test_large_logits_do_not_overflow(on_ranks):
    """What the message of the largest logit is for: exp(1000) is infinite."""
    for told in on_ranks(2, "tensor_targets:loss_of_large_logits", scale=1000.0):
        assert told["loss"] < 1e-5 and told["gradient"] < 1e-5


@pytest.mark.live
def test_a_layer_sums_twice_forward_and_twice_backward(on_ranks):
    """2 all-reduces a layer each way; the embedding adds one, cross-entropy three, the head one."""
    layers = SMALL["layers"]
    for told in on_ranks(2, "tensor_targets:beside_the_whole", cases=CASES):
        for case, found in zip(CASES, told, strict=True):
            if case["sequence"]:
                assert found["forward"] == {
                    "all_gather": 2 * layers + 1,
                    "reduce_scatter": 2 * layers + 1,
                    "all_reduce": 3,
                }
            else:
                assert found["forward"] == {"all_reduce": 2 * layers + 1 + 3}
                assert found["backward"] == {"all_reduce": 2 * layers + 1}


def plans(world: int) -> list[Plan]:
    """Layouts of so many ranks, with and without dp, copies of key/value heads, clipping."""
    made = []
    for (tp, dp), sp, model in product([(2, 1), (2, 2), (4, 1)], (False, True), MODELS):
        if tp * dp != world:
            continue
        size = {k: v for k, v in SMALL.items() if k != "global_batch"}
        more = {"optimizer": "adamw", "clip": 0.5} if sp else {"optimizer": "sgd"}
        made.append(
            Plan.of(tp=tp, dp=dp, sp=sp, microbatches=dp, global_batch=4, **size, **model, **more)
        )
    return made


@pytest.mark.live
@pytest.mark.parametrize("world", [2, 4])
def test_a_run_equals_one_process_and_its_ledger(world, pool):
    """Three steps: loss, norm, gradients and weights in float64 to 1e-10; every byte as predicted,
    in messages (inside tasks too), in memory and in what a forward keeps."""
    for ran in run_all(pool, plans(world)):
        name = (ran.plan.layout, ran.plan.model)
        assert ran.parity["max_rel_error"] < 1e-10, name
        wire, memory = ran.ledger["wire"], ran.ledger["memory"]
        assert wire["predicted"] == wire["measured"] and wire["predicted"]["tp"], name
        assert memory["predicted"] == memory["measured"], name
        assert ran.ledger["activations"]["differences"] == [], name
        assert ran.ledger["comm_buffers"]["measured"] == [0] * world, name


@pytest.mark.live
@pytest.mark.parametrize(
    ("fault", "more", "seen"),
    [
        ("Unsummed", {"sp": True}, "gradients"),
        ("Unsummed", {"kv_heads": 1}, "gradients"),
        ("OneNorm", {}, "gradient norm"),
        ("Uncounted", {}, "gradients"),
        ("WrongWords", {}, "loss"),
    ],
)
def test_a_reduction_left_out_is_seen(fault, more, seen, pool):
    """The planted faults of the parity above: gradient, norm or loss is wrong, and says so."""
    plan = Plan.of(tp=2, **{**SMALL, "global_batch": 2}, **more).flat()
    for planted in (None, fault):
        args = {"plan": plan, "fault": planted}
        with pool.start("tensor_fault_targets:train_with", 2, args) as run:
            errors = run.wait()[0]
        assert (errors[seen] > 1e-6) == (planted is not None), (planted, errors)


@pytest.mark.parametrize("sp", [False, True])
def test_every_program_is_legal_and_proved(sp):
    """Messages inside tasks meet, every slice's gradient is summed once."""
    for tp, dp, kv, m in product((2, 4), (1, 2), (4, 2, 1), (1, 2)):
        plan = Plan.of(tp=tp, dp=dp, sp=sp, kv_heads=kv, microbatches=m, layers=2)
        program = program_of(plan)
        check(program)
        assert prove(program)
        assert Program.parse(str(program)) == program


@pytest.mark.live
def test_the_terminal_says_what_should_not_differ(pool, capsys):
    """Weights that ranks hold alike, and bytes at any moment: a sentence each, none if all is
    well."""
    plan = Plan.of(tp=2, dp=2, **SMALL)
    view = RunView(plan)
    with pool.start("parallel_core.runtime:train", 4, {"plan": plan.flat(), "steps": 1}) as run:
        for event in run.events():
            view.feed(event)
        report = view.finish(run.wait())
    wrong = {
        "replicas": {**report["replicas"], "first_difference": "the weights of rank 2 are not"},
        "outline": {**report["outline"], "differences": ["rank 1, B layer0: 8 bytes of grads"]},
    }
    for told, found in ((report, False), ({**report, **wrong}, True)):
        print_summary(view, told)
        text = " ".join(capsys.readouterr().out.split())
        assert "wire tp all_reduce, all ranks" in text and "relative error" in text
        assert ("the weights of rank 2 are not" in text) is found
        assert ("memory is not as predicted: rank 1, B layer0" in text) is found


def edited(program: Program, where: str, edit: Callable[[Instr], Instr | None]) -> Program:
    """The program with every message `where` edited, or left out together with its mark."""
    ranks = []
    for instrs in program.ranks:
        (old,) = (i for i in instrs if i.where == where)
        new = edit(old)
        gone = set(old.writes) if new is None else set()
        ranks.append(
            tuple(
                replace(
                    i,
                    reads=tuple(v for v in i.reads if v not in gone),
                    frees=tuple(v for v in i.frees if v not in gone),
                )
                for i in (new if i is old else i for i in instrs)
                if i is not None
            )
        )
    return replace(program, ranks=tuple(ranks))


@pytest.mark.parametrize(
    ("more", "where", "mark"),
    [({"sp": True}, "whole", "wsum"), ({"kv_heads": 2}, "copies", "csum")],
)
@pytest.mark.parametrize("dp", [1, 2])
def test_a_sum_over_tp_left_out_is_named(more, where, mark, dp):
    """On names alone: the sums of whole parameters and of key/value copies, that nothing but the
    values of a live run would miss; left out, over the wrong ranks, of too little, too early,
    or made twice."""
    program = program_of(Plan.of(tp=4, dp=dp, layers=1, **more))
    faults: list[Callable[[Instr], Instr | None]] = [
        lambda instr: None,
        lambda instr: replace(instr, axis="dp"),
        lambda instr: replace(instr, reads=instr.reads[1:]),
    ]
    if dp > 1:  # before the gradients are summed over dp
        mine = {i.writes[k].at: i.reads[k] for i in program.ranks[0] if i.axis == "dp"
                for k in range(len(i.writes)) if i.writes[k].name == "gsum"}  # fmt: skip
        early = tuple(mine.values())
        faults.append(lambda instr: replace(instr, reads=early))
    assert prove(program)
    for fault in faults:
        with pytest.raises(ProgramError, match=rf"\({mark}, over .*times; once is right"):
            prove(edited(program, where, fault))
    twice = tuple(
        tuple(x for i in instrs for x in ((i, replace(i, writes=())) if i.where == where else (i,)))
        for instrs in program.ranks
    )
    with pytest.raises(ProgramError, match=f"{where} sums what it reads and writes nothing"):
        prove(replace(program, ranks=twice))


def test_the_classic_traffic_of_a_layer():
    """8bsh(t-1)/t elements a layer and microbatch: four all-reduces of bsh, 2(t-1)/t of it each."""
    plan = Plan.of(tp=4, layers=3, dtype="bfloat16", heads=4)
    table = wire(predicted_counts(program_of(plan), value_bytes(plan), 1), plan.mesh.degree)
    bsh = plan.tokens_per_step * plan.model.hidden
    alone = plan.but(layers=1)
    other = wire(predicted_counts(program_of(alone), value_bytes(alone), 1), plan.mesh.degree)
    grown = table["tp"]["all_reduce"]["wire_bytes"] - other["tp"]["all_reduce"]["wire_bytes"]
    assert grown / 4 == 2 * 16 * bsh * 3 // 4  # two layers more, bytes that one of 4 ranks sends


@pytest.mark.parametrize(
    ("wrong", "field", "nearest"),
    [
        ({"tp": 3}, "tp", 2),
        ({"tp": 2, "pp": 2, "schedule": "pipedream", "tied": True}, "tied", False),
        ({"sp": True}, "sp", False),
        ({"tp": 4, "sp": True, "seq": 30}, "tp", 2),
        ({"tp": 4, "sp": True, "seq": 4, "cp": 2}, "tp", 2),
    ],
)
def test_what_does_not_divide_is_refused_with_what_does(wrong, field, nearest):
    with pytest.raises(PlanError) as error:
        Plan.of(**wrong)
    assert (error.value.field, error.value.nearest) == (field, nearest)

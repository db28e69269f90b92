"""Recomputation and offloading change where activations are, never a bit of a gradient."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_runs import run_all

from parallel_core.activations import recompute
from parallel_core.activations.meter import metering
from parallel_core.activations.offload import leaving
from parallel_core.activations.saved import again_bytes, saved_bytes, saved_rows
from parallel_core.assemble import program as program_of
from parallel_core.check import check
from parallel_core.cost import UnitCost
from parallel_core.keeping import Keeper, Shelf
from parallel_core.model import Place, Transformer, init_weights, loss_sum
from parallel_core.peak import predicted_peak
from parallel_core.pipeline import SCHEDULES
from parallel_core.plan import Plan, PlanError
from parallel_core.program import Instr, Op, Program
from parallel_core.prove import prove
from parallel_core.simulate import simulate
from parallel_core.sizes import flops
from parallel_core.text import Sampler

TINY = {"hidden": 32, "heads": 4, "seq": 16, "vocab": 64, "layers": 3, "global_batch": 4}
BLOCKS: list[dict[str, Any]] = [
    {"dialect": "llama", "kv_heads": 2},
    {"dialect": "llama", "kv_heads": 2, "attention": "unfused"},
    {"dialect": "gpt", "dropout": 0.2},
    {"dialect": "gpt", "attention": "unfused", "tied": True},
]
POLICIES: list[dict[str, Any]] = [
    {"recompute": "selective"},
    {"recompute": "full"},
    {"recompute": "full", "recompute_every": 2},
    {"offload": True},
    {"offload": True, "recompute": "selective"},
]


def gradients(plan: Plan) -> dict[str, torch.Tensor]:
    """Of one batch, on one process, as the plan keeps or recomputes."""
    model = Transformer(plan)
    init_weights(model, plan)
    recompute.install(model, plan)
    batch = Sampler(plan).batch(0)
    ids, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
    x, place = ids, Place(plan.seed, 0, torch.arange(len(ids)), torch.arange(plan.seq))
    for unit in model.units:
        x = model.forward_unit(unit, x, place)
    loss_sum(x, labels).backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("rows", [1, 4])  # one row has layouts of its own, and so sums of its own
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_gradients_are_bitwise_those_of_a_run_that_kept_everything(block, dtype, rows):
    plan = Plan.of(**{**TINY, "global_batch": rows}, **block, dtype=dtype)
    kept = gradients(plan)
    for policy in POLICIES[:3]:
        again = gradients(plan.but(**policy))
        assert all(torch.equal(kept[name], again[name]) for name in kept), policy


def test_another_dropout_the_second_time_would_show(monkeypatch):
    """The planted fault: bits that depend on when they are drawn."""
    import parallel_core.model as model

    drawn = model.dropout
    calls = iter(range(1000))

    def moody(x, p, site, place, index):
        return drawn(x, p, f"{site} {next(calls)}", place, index)

    monkeypatch.setattr(model, "dropout", moody)
    plan = Plan.of(**TINY, **BLOCKS[2], recompute="full")
    calls = iter(range(1000))
    kept = gradients(plan.but(recompute="none"))
    calls = iter(range(1000))
    again = gradients(plan)
    assert not all(torch.equal(kept[name], again[name]) for name in kept)


def test_a_shelf_brings_back_what_left():
    """Views of one storage travel once; on the way nothing of it is on the device."""
    keeper = Keeper()
    keeper.shelf = shelf = Shelf()
    held, pack = list[Any](), keeper.pack
    keeper.pack = lambda tensor: held.append(pack(tensor)) or held[-1]
    weight = torch.randn(8, 8, requires_grad=True)
    x = torch.randn(4, 8, requires_grad=True)
    with keeper.keeping([weight]):
        y = (x @ weight).sin()
        out = (y[:, :4] * y[:, 4:]).sum()
    assert len(shelf.parcels) == 3  # x, x @ weight, and y with its two halves; not the weight
    expected = torch.autograd.grad(out, (x, weight), retain_graph=True)
    seen: list[torch.Tensor] = []
    shelf.leave(seen.append)
    assert all(parcel.flat is None for parcel in shelf) and len(seen) == 3
    assert all(one.of.flat is None for one in held if not isinstance(one, torch.Tensor))
    assert sum(copy.nbytes for copy in seen) == shelf.nbytes
    shelf.come_back(torch.device("cpu"), seen.append)
    found = torch.autograd.grad(out, (x, weight))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def runs(world: int) -> list[Plan]:
    """Layouts of so many ranks under every policy; each is followed by its twin that keeps all."""
    layouts: list[dict[str, Any]] = {
        1: [{}, {"microbatches": 2}],
        2: [
            {"dp": 2, "microbatches": 2},
            {"pp": 2, "schedule": "zb-h1"},
            {"tp": 2, "sp": True},
            {"pp": 2, "schedule": "gpipe", "microbatches": 4},
        ],
        4: [{"tp": 4, "sp": True}, {"tp": 2, "dp": 2}],
    }[world]
    made = []
    for number, (layout, policy) in enumerate(product(layouts, POLICIES)):
        block = BLOCKS[number % len(BLOCKS)]
        if world == 4 and number % 2:
            continue
        try:
            plan = Plan.of(**{**TINY, "layers": 4}, **block, **layout, **policy, dtype="float64")
        except PlanError:  # a pipeline whose backwards follow at once
            continue
        made += [plan, plan.but(recompute="none", recompute_every=1, offload=False)]
    return made


@pytest.mark.live
@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_run_is_bitwise_the_run_that_kept_everything(world, pool):
    """Losses and gradient norms of three steps; bytes on the wire and kept by a forward as
    predicted; the peak no higher than any timing allows."""
    ran = iter(run_all(pool, runs(world)))
    for policy, kept in zip(ran, ran, strict=True):
        name = policy.plan.layout, policy.plan.recompute, policy.plan.offload
        assert policy.parity["max_rel_error"] < 1e-10, name
        assert policy.results[0]["metrics"] != kept.results[0]["metrics"]  # of another run
        for mine, other in zip(
            policy.results[0]["metrics"], kept.results[0]["metrics"], strict=True
        ):
            assert (mine["loss"], mine["grad_norm"]) == (other["loss"], other["grad_norm"]), name
        book = policy.ledger
        assert book["wire"]["predicted"] == book["wire"]["measured"], name
        assert book["activations"]["differences"] == [], name
        assert book["comm_buffers"]["measured"] == [0] * world, name
        peak, allowed = book["memory"]["peak"], book["memory"]["predicted_peak"]
        if peak is not None:
            for kind in ("activations", "host", "total"):
                assert all(a <= b for a, b in zip(peak[kind], allowed[kind], strict=True)), (
                    name,
                    kind,
                )
            assert max(peak["host"]) > 0 if policy.plan.offload else max(peak["host"]) == 0


@pytest.mark.live
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_sharded_weights_are_there_when_a_layer_is_run_again(zero, pool):
    """ZeRO-3 frees a layer's weights after its forward, and gathers them for its backward; what was
    saved of them goes to no host."""
    plan = Plan.of(**TINY, **BLOCKS[1], dp=2, zero=zero, dtype="float64")
    told = []
    for policy in ({}, {"recompute": "full"}, {"recompute": "selective"}, {"offload": True}):
        args = {"plan": plan.but(**policy).flat(), "steps": 3}
        with pool.start("parallel_core.runtime:train", 2, args) as run:
            first, *_ = run.wait()
        assert first["parity"]["max_rel_error"] < 1e-10
        told.append([(m["loss"], m["grad_norm"]) for m in first["metrics"]])
        assert all(0 < kept == most for kept, most in away(plan.but(**policy), first))
    assert all(each == told[0] for each in told)


def away(plan: Plan, result: dict[str, Any]) -> list[tuple[int, int]]:
    """Bytes on the host at most, as measured and as predicted; nothing where none go there."""
    if not plan.offload:
        return []
    return [(result["peak"]["host"], predicted_peak(plan, program_of(plan))["host"][0])]


@pytest.mark.live
def test_the_peak_is_the_predicted_one(pool):
    """One process has no timing: what recomputation makes for a moment is counted as well."""
    plans = [
        Plan.of(**TINY, **block, **policy) for block, policy in product(BLOCKS, [{}, *POLICIES[:3]])
    ]
    for ran in run_all(pool, plans):
        memory = ran.ledger["memory"]
        for kind in ("activations", "total"):
            assert memory["peak"][kind] == memory["predicted_peak"][kind], (ran.plan, kind)


@pytest.mark.live
def test_the_host_holds_the_bytes_predicted(pool):
    """All that leaves is there before any comes back; a bfloat16 norm's input does not leave."""
    pairs = product(BLOCKS[::2], ("float32", "bfloat16"))
    plans = [Plan.of(**TINY, **block, dtype=dtype, offload=True) for block, dtype in pairs]
    for ran in run_all(pool, plans):
        memory = ran.ledger["memory"]
        assert memory["peak"]["host"] == memory["predicted_peak"]["host"] != [0], ran.plan


offloading = st.builds(
    lambda layers, m, dp, tp: Plan.of(
        layers=layers, microbatches=m, dp=dp, tp=tp, global_batch=m * dp, offload=True
    ),
    st.integers(2, 9),
    st.integers(1, 3),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
)


@given(offloading)
@settings(max_examples=40, deadline=None)
def test_offloading_is_a_legal_program_of_bounded_memory(plan):
    """However slow the host: three layers on the device at a time, and all the rest away."""
    program = program_of(plan)
    check(program)
    assert prove(program) == prove(program_of(plan.but(offload=False)))
    assert Program.parse(str(program)) == program
    copies = [i for i in program.ranks[0] if i.op.is_copy]
    assert len(copies) == 2 * plan.microbatches * (plan.model.layers - 1)
    most = predicted_peak(plan, program)["activations"][0]
    ends = saved_bytes(plan, "embed") + saved_bytes(plan, "head")
    assert most <= ends + 3 * saved_bytes(plan, "layer0")


@given(
    schedule=st.sampled_from([*SCHEDULES]),
    pp=st.sampled_from([2, 4]),
    m=st.sampled_from([4, 8]),
    zero=st.sampled_from([0, 1, 2, 3]),
)
@settings(max_examples=60, deadline=None)
def test_offloading_is_legal_in_every_pipeline(schedule, pp, m, zero):
    """What leaves comes back before its backward, and leaves again for nobody; a rank whose
    backwards follow at once puts nothing away."""
    try:
        plan = Plan.of(
            pp=pp, schedule=schedule, layers=8, microbatches=m, offload=True,
            **({"zero": zero, "dp": 2} if zero else {}), global_batch=2 * m,
        )  # fmt: skip
    except PlanError as error:
        assert error.field in ("offload", "microbatches", "zero")
        return
    program = program_of(plan)
    check(program)
    assert prove(program) == prove(program_of(plan.but(offload=False)))
    every = [leaving(instrs) for instrs in program.ranks]
    assert any(every)
    for instrs, left in zip(program.ranks, every, strict=True):
        back = [i.reads[0].at for i in instrs if i.op == Op.FETCH]
        assert len(back) == len(set(back)) and set(back) == left
    if schedule == "1f1b":
        last = plan.mesh.group(0, "pp")[-1]
        assert every[last] == set()


def test_without_its_waits_offloading_would_let_activations_pile_up():
    """The planted fault of the claim above."""
    plan = Plan.of(layers=8, offload=True)
    program = program_of(plan)
    free = Program(
        program.mesh,
        tuple(tuple(i for i in row if i.op != Op.WAIT) for row in program.ranks),
        program.holds,
        program.keeps,
    )
    bound = 3 * saved_bytes(plan, "layer0")
    assert predicted_peak(plan, free)["activations"][0] > 2 * bound


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_what_a_policy_keeps_and_what_it_makes_again(block):
    """Full keeps one tensor; selective all but the core; nothing is kept and made twice over."""
    plan = Plan.of(**TINY, **block)
    whole = saved_bytes(plan, "layer1")
    full, some = plan.but(recompute="full"), plan.but(recompute="selective")
    assert len(saved_rows(full, "layer1")) == 1
    assert saved_bytes(full, "layer1") + again_bytes(full, "layer1") == whole
    assert saved_bytes(full, "layer1") < saved_bytes(some, "layer1") < whole
    every = plan.but(recompute="full", recompute_every=2)
    assert saved_bytes(every, "layer1") == whole > saved_bytes(every, "layer2")


def test_recomputing_costs_a_forward_more():
    """Full: a backward of three forwards' work; the head, which keeps everything, of two."""
    plan = Plan.of(recompute="full")
    count = flops(plan)
    ahead, back = (Instr(op=op, where="layer1") for op in (Op.F, Op.B))
    assert count(back) == 3 * count(ahead)
    assert flops(plan.but(recompute="none"))(back) == 2 * count(ahead)
    head = [count(Instr(op=op, where="head")) for op in (Op.F, Op.B)]
    assert head[1] == 2 * head[0]


def test_a_meter_sees_the_input_alone():
    """Measured, not told: the layer that recomputes saves its input and nothing else."""
    plan = Plan.of(**TINY, recompute="full")
    model = Transformer(plan)
    init_weights(model, plan)
    recompute.install(model, plan)
    x = torch.randn(4, plan.seq, plan.model.hidden, requires_grad=True)
    place = Place(0, 0, torch.arange(4), torch.arange(plan.seq))
    with metering(model.parameters()) as meter:
        model.forward_unit("layer0", x, place)
    assert meter.bytes == x.nbytes


@pytest.mark.parametrize(
    ("wrong", "field", "nearest"),
    [
        ({"recompute_every": 2}, "recompute_every", 1),
        ({"recompute": "full", "recompute_every": 9}, "recompute_every", 4),
        ({"pp": 2, "schedule": "pipedream", "recompute": "full"}, "recompute", "selective"),
        ({"pp": 2, "offload": True}, "offload", False),
        ({"experts": 4, "dp": 2, "ep": 2, "offload": True}, "offload", False),
        ({"layers": 1, "offload": True}, "layers", 2),
        ({"overlap_tp": True}, "overlap_tp", False),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(wrong, field, nearest):
    with pytest.raises(PlanError) as error:
        Plan.of(**wrong)
    assert (error.value.field, error.value.nearest) == (field, nearest)
    Plan.of(**{**wrong, field: nearest})


def test_unit_costs_lay_an_offloading_step_out():
    """Copies take no time under unit costs, so nothing is delayed by them."""
    plan = Plan.of(layers=5)
    plain, away = program_of(plan), program_of(plan.but(offload=True))
    assert simulate(plain, UnitCost()).makespan == simulate(away, UnitCost()).makespan

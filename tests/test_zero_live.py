"""ZeRO on real processes: the model of one process, the bits of plain data parallelism, no byte
more in memory or on the wire than its program says."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from parallel_core.data.blocks import blocks
from parallel_core.ledger import total_wire_bytes
from parallel_core.outline import KINDS, STATE, memory_outline
from parallel_core.params import pieces
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.report import RunView

pytestmark = pytest.mark.live

SMALL = {"layers": 2, "hidden": 16, "heads": 2, "seq": 8, "vocab": 64, "global_batch": 36}
EXACT = {**SMALL, "dtype": "float64", "bucket_mb": 0.001}
STEPS = 3

GPT = {"dialect": "gpt", "dropout": 0.1}
TIED = {"tied": True, "dialect": "llama"}
ADAMW, SGD = {"optimizer": "adamw"}, {"optimizer": "sgd"}
CLIPPED = {"clip": 0.05}
THREE = {"microbatches": 3}

HSDP = [{"shard": 4}, {"shard": 2}, {"shard": 1}]
"""1x4, 2x2 and 4x1: replicas times ranks a group, of 4."""


def same_training(dp: int) -> list[list[Plan]]:
    """Groups of plans that train alike; the first of each is plain data parallelism."""
    kinds = [
        {**SGD, **GPT},
        {**ADAMW, **TIED},
        {**ADAMW, **GPT, **THREE},
        {**SGD, **TIED, **THREE, **CLIPPED},
        {**ADAMW, "dialect": "llama", **CLIPPED},
    ]
    return [
        [Plan.of(**EXACT, dp=dp, **kind, **layout) for layout in ({}, *layouts(dp, i))]
        for i, kind in enumerate(kinds)
    ]


def layouts(dp: int, i: int) -> list[dict[str, Any]]:
    """The three stages; of the third its choices; HSDP where there is room for it."""
    shards = HSDP if dp == 4 else [{}]
    found = [{"zero": zero, **shards[(zero + i) % len(shards)]} for zero in (1, 2)]
    found += [{"zero": 3, "prefetch": i % 4, **shard} for shard in shards]
    found += [{"zero": zero} for zero in (1, 2) if i == 0 and dp == 4]
    return [*found, {"zero": 3, "keep_gathered": True, "prefetch": (i + 2) % 4}]


class Followed:
    """The plans of one call on `n` ranks, each with its RunView, results and report."""

    def __init__(self, pool: Any, n: int, target: str, **args: Any) -> None:
        key = "plans" if "plans" in args else "runs"
        listed = args[key]
        self.plans = [p if isinstance(p, Plan) else p[0] for p in listed]
        flat = [p.flat() if isinstance(p, Plan) else [p[0].flat(), *p[1:]] for p in listed]
        self.views = [RunView(plan) for plan in self.plans]
        at = [-1] * n
        with pool.start(target, n, {**args, key: flat}) as run:
            for event in run.events():
                self._feed(event, at)
            by_rank = run.wait(timeout=240)
        self.results = [[results[i] for results in by_rank] for i in range(len(self.plans))]
        reports = zip(self.views, self.results, strict=True)
        self.reports = [view.finish(results) for view, results in reports]

    def _feed(self, event: dict[str, Any], at: list[int]) -> None:
        """Events of a rank go to the plan that it works at."""
        rank = event.get("rank", 0)
        if event["event"] == "plan":
            at[rank] += 1
        else:
            self.views[at[rank]].feed(event)


@pytest.fixture(scope="module")
def trained(pool):
    """By dp: every plan of `same_training`, run once."""

    @cache
    def run(dp: int) -> Followed:
        every = [plan for group in same_training(dp) for plan in group]
        return Followed(pool, dp, "zero_targets:train_all", plans=every, steps=STEPS)

    return run


worlds = pytest.mark.parametrize("dp", [2, 3, 4])


@worlds
def test_every_stage_trains_the_model_of_one_process(dp, trained):
    """Loss, norm over all shards, every gradient, and the weights after 3 steps, in float64."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        assert report["parity"]["max_rel_error"] <= 1e-10, (plan, report["parity"])
        assert len(report["parity"]["counted"]) == 4
        assert len(report["steps"]) == STEPS


def test_on_two_ranks_the_bits_are_those_of_plain_dp(trained):
    """a + b is b + a, however gradients are cut. Not so with accumulation from stage 2 on, which
    sums over ranks first and over microbatches then, nor clipped: squares are summed by shard."""
    weights, compared = bits(trained(2)), 0
    for plain, *others in same_training(2):
        for plan in others:
            if (plan.zero == 1 or plan.microbatches == 1) and plan.clip is None:
                same = plan.shard_axis == "dp"
                assert not same or weights[plan] == weights[plain], plan
                compared += same
    assert compared >= 9


def bits(found: Followed) -> dict[Plan, str]:
    """A hash of the weights after the last step, by plan."""
    pairs = zip(found.plans, found.results, strict=True)
    return {plan: results[0]["weights"] for plan, results in pairs}


@worlds
def test_one_cut_and_one_order_of_sums_make_the_same_bits(dp, trained):
    """Stages 2 and 3, whatever is gathered when, and stage 1 where its buckets are units (a tied
    head's norm shares one) and are summed once. Here plain data parallelism differs from three
    ranks on: the ring of gloo's all-reduce starts every chunk at another rank than its owner."""
    alike: dict[Plan, dict[Plan, str]] = {}
    for plan, weights in bits(trained(dp)).items():
        if plan.zero >= 2 or (plan.zero == 1 and plan.microbatches == 1 and not plan.model.tied):
            key = plan.but(zero=2, prefetch=1, keep_gathered=False)
            alike.setdefault(key, {})[plan] = weights
    assert all(len(set(group.values())) == 1 for group in alike.values()), alike
    assert any({plan.zero for plan in group} == {1, 2, 3} for group in alike.values())


@worlds
def test_the_ledger_agrees_to_the_byte(dp, trained):
    """On the wire, between steps, and never above the peak that the program allows."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        book = report["ledger"]
        assert book["wire"]["predicted"] == book["wire"]["measured"], plan
        assert book["control"]["predicted"] == book["control"]["measured"], plan
        memory = book["memory"]
        assert memory["predicted"] == memory["measured"], plan
        assert book["activations"]["differences"] == [], plan
        assert book["comm_buffers"]["differences"] == [], plan
        for kind, peaks in memory["peak"].items():
            most = memory["predicted_peak"][kind]
            assert all(a <= b for a, b in zip(peaks, most, strict=True)), (plan, kind)
        assert memory["peak"]["optimizer"] == memory["predicted"]["optimizer"]


@worlds
def test_measured_memory_follows_its_outline(dp, trained):
    """After every instruction of the compute lane the bytes are those of the program's values, to
    the byte; while a message is under way, those of before it, inside it or after it."""
    exact = boundaries = 0
    for plan, view, report in zip(
        trained(dp).plans, trained(dp).views, trained(dp).reports, strict=True
    ):
        found = report["outline"]
        assert found["differences"] == [], plan
        compute = sum(i.lane == "compute" for rank in view.program.ranks for i in rank)
        assert found["equal"] + found["within_a_message"] == compute * STEPS
        rows = sum(map(len, view.program.ranks)) * STEPS
        assert len(view.gauge) == rows
        if plan.zero < 2:
            assert found["within_a_message"] == 0 or plan.zero == 1
        exact, boundaries = exact + found["equal"], boundaries + compute * STEPS
    assert exact > boundaries / 5


@worlds
def test_a_replayed_run_has_an_outline_too(dp, trained):
    """A row an instruction; at the end of the run what was measured there."""
    found = trained(dp)
    view, report = next(
        pair for pair in zip(found.views, found.reports, strict=True) if pair[0].plan.zero == 3
    )
    rows = memory_outline(view.plan, view.program, view.own_device())
    assert len(rows) == len(view.gauge)
    memory = report["ledger"]["memory"]
    for rank in range(dp):
        last = [row for row in rows if row.rank == rank][-1]
        assert {kind: last[kind] for kind in KINDS} == {
            "activations": 0,
            **{kind: memory["measured"][kind][rank] for kind in STATE},
        }


@worlds
def test_every_run_can_be_replayed(dp, trained):
    """On a device a rank; a group of one, which sends nothing, tells nothing of the link."""
    for view in trained(dp).views:
        assert view.own_device().makespan > 0, view.plan


def test_a_group_of_one_rank_is_still_zero(pool):
    """dp = 1: nobody to share with, nothing on the wire, everything else as it is."""
    plans = [Plan.of(**EXACT, zero=zero, microbatches=3, clip=0.05) for zero in (1, 2, 3)]
    found = Followed(pool, 1, "zero_targets:train_all", plans=plans, steps=STEPS)
    for report in found.reports:
        book = report["ledger"]
        assert report["parity"]["max_rel_error"] <= 1e-10
        assert book["wire"]["predicted"] == book["wire"]["measured"]
        assert book["wire"]["measured_total_bytes"] == 0
        assert book["memory"]["predicted"] == book["memory"]["measured"]
        assert report["outline"]["differences"] == []


@worlds
def test_ranks_that_hold_the_same_weights_agree_after_every_step(dp, trained):
    """All ranks, or with zero=3 those of different groups; alone, a shard has no replica."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        found = report["replicas"]
        if plan.zero == 3 and plan.shards == dp:
            assert found is None
        else:
            assert found["equal"] and found["steps"] == STEPS, (plan, found)


# -- what a rank never holds ----------------------------------------------------------------------


def whole_blocks(plan: Plan) -> dict[int, int]:
    """By unit the bytes of its padded block."""
    width = 8 if plan.dtype == "float64" else 4
    return {block.units[0]: block.padded * width for block in blocks(plan)}


def most_gradients(plan: Plan) -> int:
    """Own shards, two blocks, and where the sum of one lands; a tied table besides."""
    whole = whole_blocks(plan)
    tied = whole[0] if plan.model.tied else 0
    a, b, *_ = sorted(whole.values(), reverse=True)
    return sum(whole.values()) // plan.shards + a + b + a // plan.shards + tied


def most_weights(plan: Plan) -> int:
    """Own shards and prefetch + 1 blocks (and tables, of a tied head); all where they are kept."""
    whole = whole_blocks(plan)
    tied = whole[0] if plan.model.tied else 0
    own = sum(whole.values()) // plan.shards
    window = 2 * sorted(whole.values(), reverse=True)  # forward, then backward
    blocks_at_once = sum(sorted(2 * window, reverse=True)[: plan.prefetch + 1])
    everything = sum(whole.values())
    most = max(everything, blocks_at_once) if plan.keep_gathered else blocks_at_once
    return own + most + tied * min(plan.prefetch + 1, 2)


@worlds
def test_stage_2_never_holds_a_full_gradient(dp, trained):
    """Two blocks beside its own shards, measured whenever a buffer is made."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        if plan.zero >= 2:
            assert max(report["ledger"]["memory"]["peak"]["grads"]) <= most_gradients(plan), plan


@worlds
def test_stage_3_never_holds_more_weights_than_its_window(dp, trained):
    """prefetch + 1 blocks beside its own shards, measured whenever a buffer is made."""
    for plan, report in zip(trained(dp).plans, trained(dp).reports, strict=True):
        if plan.zero == 3:
            assert max(report["ledger"]["memory"]["peak"]["params"]) <= most_weights(plan), plan


DEEP = {**EXACT, "layers": 4, "dp": 2, **SGD, "seq": 8}
WIDE = {**EXACT, "layers": 4, "hidden": 64, "dp": 2, **SGD}
PLANTED = [
    (Plan.of(**DEEP, zero=3), "kept gather"),
    (Plan.of(**DEEP, zero=3), "saved weight"),
    (Plan.of(**DEEP, zero=2), "leaked gradient"),
    (Plan.of(**DEEP, zero=3), "leaked gradient 3"),
    (Plan.of(**DEEP, zero=2), "diverging"),
    (Plan.of(**DEEP, zero=3, shard=1), "diverging 3"),
    (Plan.of(**DEEP, zero=2, clip=0.05), "norm of one shard"),
    (Plan.of(**DEEP, zero=1), "skipped scatter"),
    (Plan.of(**WIDE, zero=2), "hidden gradient"),
    (Plan.of(**WIDE, zero=3), "hidden weight"),
    (Plan.of(**DEEP, zero=3), None),
    (Plan.of(**DEEP, zero=2), None),
    (Plan.of(**WIDE, zero=2), None),
    (Plan.of(**WIDE, zero=3), None),
]


@pytest.fixture(scope="module")
def planted(pool):
    """By fault: its report."""
    runs = Followed(pool, 2, "zero_targets:train_with_faults", runs=PLANTED, steps=STEPS)
    wide = [" wide" * (plan.model.hidden == WIDE["hidden"]) for plan in runs.plans]
    names = [fault or f"none {p.zero}{w}" for (p, fault), w in zip(PLANTED, wide, strict=True)]
    return dict(zip(names, zip(runs.plans, runs.views, runs.reports, strict=True), strict=True))


@pytest.mark.parametrize("fault", ["kept gather", "saved weight"])
def test_a_gathered_block_kept_alive_turns_the_window_red(fault, planted):
    """The numbers stay right: nothing but the measured bytes tells."""
    plan, _, report = planted[fault]
    memory = report["ledger"]["memory"]
    assert max(memory["peak"]["params"]) > most_weights(plan)
    assert max(memory["peak"]["params"]) > max(memory["predicted_peak"]["params"])
    assert "bytes of params, where the outline says" in report["outline"]["differences"][0]
    assert report["parity"]["max_rel_error"] <= 1e-10


@pytest.mark.parametrize("fault", ["leaked gradient", "leaked gradient 3"])
def test_a_leaked_block_of_gradient_turns_the_peak_red(fault, planted):
    """A whole gradient's bytes are there at the end of the backward."""
    plan, _, report = planted[fault]
    memory = report["ledger"]["memory"]
    assert max(memory["peak"]["grads"]) > most_gradients(plan)
    assert "bytes of grads, where the outline says" in report["outline"]["differences"][0]
    assert report["parity"]["max_rel_error"] <= 1e-10


@pytest.mark.parametrize("zero", [2, 3])
def test_without_a_fault_the_same_plans_are_green(zero, planted):
    plan, _, report = planted[f"none {zero}"]
    memory = report["ledger"]["memory"]
    assert max(memory["peak"]["grads"]) <= most_gradients(plan)
    assert zero == 2 or max(memory["peak"]["params"]) <= most_weights(plan)
    assert report["outline"]["differences"] == []


def left_by_the_backward(view: RunView, rank: int, step: int) -> int:
    """Bytes that the allocator has more of before a rank's update than after it, in a step that
    makes no state: it counts what nobody watches, too."""
    spans = [s for s in view.trace.by_rank[rank] if s.step == step]
    before, after = (next(s for s in spans if s.op == op).memory for op in (Op.NORM, Op.O))
    return before - after


@pytest.mark.parametrize(
    ("run", "blocks_left"),
    [("none 2 wide", 0), ("none 3 wide", 0), ("hidden gradient", 4), ("hidden weight", 8)],
)
def test_a_copy_that_nobody_watches_is_seen_by_the_allocator(run, blocks_left, planted):
    """When the backward is over no whole block is left, of gradients or of weights. Copies that
    are gone before the step ends escape every other reading."""
    plan, view, report = planted[run]
    if not any(span.memory for span in view.trace.spans):
        pytest.skip("this platform's allocator does not count")
    largest = max(whole_blocks(plan).values())
    found = [left_by_the_backward(view, rank, step) for rank in (0, 1) for step in (1, 2)]
    assert report["outline"]["differences"] == []
    if blocks_left:
        assert min(found) >= blocks_left * largest
    else:
        assert max(found) < largest / 2


@pytest.mark.parametrize("fault", ["diverging", "diverging 3"])
def test_one_bit_in_one_weight_turns_the_replicas_red(fault, planted):
    """And the first step after which they differ is named; parity is far too coarse to see it."""
    _, _, report = planted[fault]
    found = report["replicas"]
    assert found["equal"] is False
    words = "after step 1 the weights of rank 1 are not those of rank 0"
    assert found["first_difference"] == words
    assert report["parity"]["max_rel_error"] <= 1e-10


@pytest.mark.parametrize("fault", ["norm of one shard", "skipped scatter"])
def test_a_wrong_sum_turns_the_parity_red(fault, planted):
    """Clipping by a rank's own norm; a shard that is only a rank's own."""
    assert planted[fault][2]["parity"]["max_rel_error"] > 1e-3


# -- traffic, precision ---------------------------------------------------------------------------

COUNTED = [
    (zero, m, {"keep_gathered": True} if kept else {})
    for m in (1, 3)
    for zero, kept in ((0, False), (1, False), (2, False), (3, False), (3, True))
]
HALVES = [
    Plan.of(**{**EXACT, "dp": 2, **ADAMW, "moments": "bfloat16", **more})
    for more in (
        {},
        {"zero": 1},
        {"zero": 3, "microbatches": 3},
        {"zero": 2, "dtype": "float32"},
        {"zero": 3, "dtype": "bfloat16"},
        {"zero": 1, "dtype": "float32", "moments": "float32"},
        {"zero": 3, "dtype": "bfloat16", "moments": "float32"},
    )
]


@pytest.fixture(scope="module")
def counted(pool):
    """Plans of 2 ranks that are only counted, and those of the optimizer's precision."""
    traffic = [
        Plan.of(**EXACT, dp=2, **SGD, zero=zero, microbatches=m, **more)
        for zero, m, more in COUNTED
    ]
    return Followed(pool, 2, "zero_targets:train_all", plans=[*traffic, *HALVES], steps=2)


def test_the_traffic_of_each_stage_counted(counted):
    """2Ψ, 2Ψ, (m+1)Ψ, 3mΨ a step, kept weights 2mΨ; at one microbatch stage 3 is 1.5 times DDP."""
    psi = sum(piece.numel for piece in pieces(counted.plans[0])) * 8
    sent = {}
    for (zero, m, more), report in zip(COUNTED, counted.reports, strict=False):
        table = report["ledger"]["wire"]["measured"]
        sent[zero, m, bool(more)] = total_wire_bytes(table) / (2 * psi)
    assert [sent[zero, 1, False] for zero in range(4)] == [2, 2, 2, 3]
    assert [sent[zero, 3, False] for zero in range(4)] == [2, 2, 4, 9]
    assert (sent[3, 1, True], sent[3, 3, True]) == (2, 6)


def test_moments_in_bfloat16_train_as_the_oracle_says(counted):
    """Beside an oracle that rounds torch's own moments: to 1e-10 in float64. In float32 and below
    a moment at the edge may round the other way, a 256th of one update of lr = 1e-3."""
    for plan, report in list(zip(counted.plans, counted.reports, strict=True))[-len(HALVES) :]:
        errors = report["parity"]["errors"]
        if plan.dtype == "float64":
            assert errors["parameters"] <= 1e-10, plan
        assert errors["gradients"] <= (2e-2 if plan.dtype == "bfloat16" else 1e-5), plan


def test_moments_in_bfloat16_take_half_the_bytes(counted):
    """Measured storages, as the ledger says; a master copy stays float32."""
    reports = dict(zip(counted.plans, counted.reports, strict=True))
    for plan in HALVES:
        memory = reports[plan]["ledger"]["memory"]
        assert memory["measured"] == memory["predicted"], plan
        width, master = {"float64": (8, 0), "float32": (4, 0), "bfloat16": (2, 4)}[plan.dtype]
        resident = memory["measured"]["params"][0] // width
        updated = resident if plan.zero == 3 else resident // plan.shards
        moments = 4 if plan.moments == "bfloat16" else 8
        assert memory["measured"]["optimizer"][0] == updated * (moments + master), plan


# -- torch's own ----------------------------------------------------------------------------------

PEERS = {
    2: [
        ({**SGD, "dialect": "gpt"}, "ddp"),
        ({**ADAMW, "dialect": "llama", "zero": 1}, "ddp"),
        ({**ADAMW, **TIED, "zero": 2}, "fsdp2"),
        ({**ADAMW, "dialect": "gpt", "zero": 3, "clip": 0.05}, "fsdp2"),
        ({**SGD, "dialect": "llama", "zero": 3, "keep_gathered": True}, "fsdp2"),
    ],
    4: [
        ({**ADAMW, **TIED, "zero": 3, "shard": 2}, "fsdp2"),
        ({**ADAMW, "dialect": "gpt", "zero": 3, "shard": 4, **THREE}, "fsdp2"),
        ({**SGD, "dialect": "llama", "zero": 2, "clip": 0.05}, "ddp"),
    ],
}


@pytest.mark.parametrize("dp", [2, 4])
def test_torchs_own_ddp_and_fsdp2_end_at_the_same_weights(dp, on_ranks):
    """The same model and batches through DistributedDataParallel and fully_shard: losses of 3
    steps and the weights after them, in float64."""
    runs = [[Plan.of(**EXACT, dp=dp, **more).flat(), peer] for more, peer in PEERS[dp]]
    told = on_ranks(dp, "zero_targets:beside_torch", runs=runs, steps=STEPS)[0]
    for (more, peer), found in zip(PEERS[dp], told, strict=True):
        assert found["loss"] <= 1e-10, (more, peer, found)
        assert found["weights"] <= 1e-10, (more, peer, found)
        assert found["moved"] > 1e-4, (more, peer, found)  # else anything would be equal

"""ZeRO's traffic counted, bfloat16 moments, and torch's own at the same weights."""

from __future__ import annotations

import pytest
from zero_runs import ADAMW, EXACT, SGD, STEPS, THREE, TIED, Followed

from parallel_core.ledger import total_wire_bytes
from parallel_core.pieces import pieces
from parallel_core.plan import Plan

pytestmark = pytest.mark.live

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

"""What a proof of experts is worth: a mistake planted in a kernel turns the parity red."""

from __future__ import annotations

from typing import Any

import pytest

from parallel_core.plan import Plan

pytestmark = pytest.mark.live

SMALL: dict[str, Any] = {
    "hidden": 16, "heads": 4, "seq": 16, "vocab": 32, "layers": 2, "ffn": 16, "dtype": "float64",
    "experts": 4, "global_batch": 4, "optimizer": "sgd",
}  # fmt: skip
SHARED = {"dp": 2, "ep": 2}
FLIPS = {"top_k": 1, "experts": 2, "skew": 40, "balance": "bias", "bias_rate": 4}
"""All tokens go to one expert, and after each step to the other: one rank has none by turns."""

AUX = {"balance": "aux", "aux_loss": 1.0}
TIGHT = {"router": "capacity", "capacity": 0.5}

FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("ScaledByEp", SHARED, "gradients"),
    ("RouterUnsummed", {"tp": 2}, "gradients"),
    ("AuxOnEvery", {"tp": 2, **AUX}, "gradients"),
    ("CountsMixed", SHARED, "loss"),
    ("WrongSource", SHARED, "loss"),
    ("IdleLeftOut", SHARED | FLIPS, "gradient norm"),
    ("BiasApart", SHARED | {"balance": "bias", "bias_rate": 0.5}, "parameters"),
    ("NoResidual", SHARED | TIGHT | {"top_k": 1}, "loss"),
    ("CapacityPerRank", {"dp": 2, **TIGHT}, "gradients"),
]


@pytest.mark.parametrize(("fault", "more", "seen"), FAULTS, ids=[name for name, *_ in FAULTS])
def test_a_mistake_is_seen(fault, more, seen, pool):
    """The same plan without it is green: the mistake is all that differs."""
    plan = Plan.of(**SMALL | more)
    found = {}
    for planted in (None, fault):
        args = {"plan": plan.flat(), "fault": planted}
        with pool.start("expert_targets:train_with", plan.world_size, args) as run:
            found[planted] = run.wait(timeout=120)[0]
    assert max(found[None].values()) <= 1e-10, found
    assert not found[fault][seen] <= 1e-6, found  # a number that is none is wrong as well

"""Our tensor-parallel step is DTensor's parallelize_module on the same model, which shares nothing
with it but the model: in float64, loss, gradient norm and every gradient."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

SMALL = {"hidden": 32, "heads": 4, "seq": 16, "vocab": 64, "layers": 2, "dtype": "float64"}
SMALL |= {"global_batch": 4, "ffn": 48, "microbatches": 2}
EXACT = 1e-10

KINDS = [
    {"tied": False, "cut_loss": True},
    {"tied": True, "cut_loss": True},
    {"tied": False, "cut_loss": False},
]
"""Whether the head has its own table, and whether torch's loss is loss_parallel or that of
gathered logits."""


def case(
    world: int, *, cut_loss: bool = True, unsummed: bool = False, **flat: Any
) -> dict[str, Any]:
    """One case as its target takes it."""
    plan = {**SMALL, "tp": world, **flat}
    return {"plan": plan, "cut_loss": cut_loss, "unsummed": unsummed}


def cases(world: int) -> list[dict[str, Any]]:
    """Both dialects, plain and with sequence parallelism, each kind; heads shared by groups."""
    made = [
        case(world, dialect=dialect, sp=sp, **kind)
        for dialect, sp, kind in product(("llama", "gpt"), (False, True), KINDS)
    ]
    if world == 2:
        made += [case(world, kv_heads=2, sp=sp) for sp in (False, True)]
    return made


@pytest.mark.live
@pytest.mark.parametrize("world", [2, 4])
def test_losses_norms_and_gradients_are_dtensors(world, on_ranks):
    """Two steps of every case, on every rank, each slice against torch's whole gradient."""
    asked = cases(world)
    for told in on_ranks(world, "tensor_peer_targets:beside_dtensor", cases=asked):
        for one, found in zip(asked, told, strict=True):
            for what in ("losses", "norms"):
                mine, theirs = found[what]
                assert mine == pytest.approx(theirs, rel=EXACT), (what, one)
            bad = {name: far for name, far in found["apart"].items() if not far < EXACT}
            assert not bad, (one, bad)


@pytest.mark.live
def test_a_gradient_that_is_not_summed_is_noticed(on_ranks):
    """A planted fault in ours: the comparison is one that can fail."""
    asked = [case(2, unsummed=True)]
    for (found,) in on_ranks(2, "tensor_peer_targets:beside_dtensor", cases=asked):
        assert max(found["apart"].values()) > 1e-3
        assert found["losses"][0][1] != pytest.approx(found["losses"][1][1], rel=EXACT)

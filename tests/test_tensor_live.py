"""A tensor-parallel model on real ranks is the whole model: loss, every gradient, the messages."""

from __future__ import annotations

from itertools import product

import pytest

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

"""The same code on CUDA: NCCL with a GPU a rank, gloo with host staging where ranks share one."""

from __future__ import annotations

import pytest
import torch

from parallel_core.plan import Plan
from parallel_core.report import ledger

pytestmark = [pytest.mark.gpu, pytest.mark.live]

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
needs_gpu = pytest.mark.skipif(GPUS == 0, reason="no CUDA device here")
SMALL = {"layers": 2, "hidden": 64, "heads": 4, "seq": 32, "global_batch": 8, "bucket_mb": 0.2}


@needs_gpu
@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize("dialect", ["gpt", "llama"])
def test_training_on_gpus_equals_one_process_on_the_cpu(dp, dialect, on_ranks):
    """float64 with SGD, so that nothing hides; two ranks share the GPU if there is only one."""
    plan = Plan.of(**SMALL, dp=dp, dialect=dialect, dtype="float64", optimizer="sgd")
    results = on_ranks(dp, "parallel_core.runtime:train", plan=plan.flat(), steps=3)
    assert results[0]["backend"]["device"] == "cuda"
    shared = dp > GPUS
    assert results[0]["backend"]["name"] == ("gloo" if shared else "nccl")
    assert bool(results[0]["backend"]["note"]) == shared
    assert results[0]["parity"]["max_rel_error"] < 1e-8
    book = ledger(plan, results, 3)
    assert book["wire"]["predicted"] == book["wire"]["measured"]
    assert book["memory"]["predicted"] == book["memory"]["measured"]

"""The same code on CUDA: NCCL with a GPU a rank, gloo with host staging where ranks share one."""

from __future__ import annotations

import pytest
import torch

from parallel_core.expert import grouped
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


@needs_gpu
@pytest.mark.parametrize("ep", [1, 2])
def test_experts_on_gpus_equal_one_process_on_the_cpu(ep, on_ranks):
    """Tokens travel on the device; a flooded rank and a starved one among them."""
    layout = {"dp": ep, "ep": ep, "experts": 8, "skew": 5.0, "balance": "bias"}
    plan = Plan.of(**SMALL, **layout, dtype="float64", optimizer="sgd")
    results = on_ranks(ep, "parallel_core.runtime:train", plan=plan.flat(), steps=3)
    assert results[0]["backend"]["device"] == "cuda"
    assert results[0]["parity"]["max_rel_error"] < 1e-8


@needs_gpu
@pytest.mark.parametrize("counts", [[3, 0, 8, 5], [0, 0, 0, 16], [0, 0, 0, 0]])
@pytest.mark.parametrize("widths", [(64, 32), (20, 12)])
def test_one_kernel_gives_what_the_loop_gives(counts, widths):
    """In bfloat16, forward and backward; widths that the kernel does not take go the other way."""
    inner, outer = widths
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(counts), inner, generator=generator).bfloat16().cuda()
    w = torch.randn(len(counts), outer, inner, generator=generator).bfloat16().cuda()
    assert grouped.one_kernel(x, w) == (sum(counts) > 0 and inner % 8 == outer % 8 == 0)
    x, w = x.requires_grad_(), w.requires_grad_()
    y = grouped.product(x, w, counts)
    y.float().square().sum().backward()
    parts = [rows @ m.T for rows, m in zip(x.detach().split(counts), w.detach(), strict=True)]
    torch.testing.assert_close(y.detach(), torch.cat(parts), rtol=2e-2, atol=2e-2)
    dy = 2 * y.detach()
    dw = [d.T @ r for d, r in zip(dy.split(counts), x.detach().split(counts), strict=True)]
    torch.testing.assert_close(w.grad, torch.stack(dw), rtol=2e-2, atol=2e-1)

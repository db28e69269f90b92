"""The update of weights: clipping is torch's, whatever the norm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from parallel_core.update import clip_factor


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.floats(1e-6, 1e6))
def test_clipping_is_torchs(values, most):
    """A gradient longer than the limit is shortened to it, a shorter one is left as it is."""
    weight = nn.Parameter(torch.zeros(len(values), dtype=torch.float64))
    weight.grad = torch.tensor(values, dtype=torch.float64)
    before = weight.grad.clone()
    norm = float(nn.utils.clip_grad_norm_([weight], most))
    factor = clip_factor(norm, most)
    torch.testing.assert_close(before * factor, weight.grad, rtol=1e-12, atol=0)
    assert factor * norm <= most
    if norm < most - 1e-6:
        assert factor == 1


@pytest.mark.parametrize("norm", [0.0, 1e-12])
def test_no_gradient_is_made_longer(norm):
    assert clip_factor(norm, 1.0) == 1

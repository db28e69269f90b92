"""Many products in one: forward and backward are those of a loop over experts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from parallel_core.deferred import Deferred, Split
from parallel_core.expert import grouped

counts_of = st.lists(st.integers(0, 5), min_size=1, max_size=6)
LOADS = {
    "even": [3, 3, 3],
    "starved": [4, 0, 2],
    "first and last starved": [0, 5, 0],
    "flooded": [9, 0, 0],
    "nobody": [0, 0, 0],
}
every_load = pytest.mark.parametrize("counts", LOADS.values(), ids=LOADS)


def drawn(counts: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x[R, I], w[E, O, I], dy[R, O] with I = 4, O = 3."""
    made = torch.Generator().manual_seed(seed)
    shapes = (sum(counts), 4), (len(counts), 3, 4), (sum(counts), 3)
    x, w, dy = (torch.randn(s, generator=made, dtype=torch.float64) for s in shapes)
    return x.requires_grad_(), w.requires_grad_(), dy


def loop(x: Tensor, w: Tensor, counts: list[int]) -> Tensor:
    """One expert after another, by torch's own product."""
    parts = x.split(counts)
    return torch.cat([part @ w[e].T for e, part in enumerate(parts)])


@given(counts_of, st.integers(0, 999))
def test_it_is_a_loop_over_experts(counts, seed):
    """Values, dx and dw to the last bits, with any number of rows an expert, none included."""
    x, w, dy = drawn(counts, seed)
    truth = loop(x, w, counts)
    dx, dw = torch.autograd.grad(truth, (x, w), dy)
    y = grouped.product(x, w, counts)
    torch.testing.assert_close(y, truth, rtol=1e-14, atol=1e-14)
    y.backward(dy)
    torch.testing.assert_close(x.grad, dx, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(w.grad, dw, rtol=1e-14, atol=1e-14)


@every_load
def test_gradients_are_those_of_differences(counts):
    x, w, _ = drawn(counts)
    if sum(counts):
        assert torch.autograd.gradcheck(lambda x, w: grouped.product(x, w, counts), (x, w))


@every_load
def test_a_starved_expert_has_a_gradient_of_zero(counts):
    """Zero, not absent: an optimizer and a reduction find it, and others' ranks wait for it."""
    x, w, dy = drawn(counts)
    grouped.product(x, w, counts).backward(dy)
    assert x.grad.shape == x.shape
    for e, count in enumerate(counts):
        assert bool((w.grad[e] == 0).all()) is (count == 0)


@every_load
def test_in_halves_it_is_the_same_to_the_bit(counts):
    """I gives dx and leaves dw; W makes it, and holds x and dy until then, nothing else."""
    x, w, dy = drawn(counts)
    grouped.product(x, w, counts).backward(dy)
    own, other = w.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
    split, queue = Split(), Deferred()
    with split.into(queue):
        y = split.grouped(other, own, counts)
    y.backward(dy)
    torch.testing.assert_close(other.grad, x.grad, rtol=0, atol=0)
    assert own.grad is None and len(queue) == 1
    held = {t.data_ptr() for t in queue.held_tensors() if t.numel()}
    assert held == {t.data_ptr() for t in (other, dy) if t.numel()}
    queue.run()
    torch.testing.assert_close(own.grad, w.grad, rtol=0, atol=0)
    assert len(queue) == 0 and queue.bytes == 0


@every_load
def test_gradients_of_microbatches_add_up(counts):
    """Whole or in halves, one microbatch upon another; a starved expert adds nothing."""
    grads = []
    for halves in (False, True):
        _, w, _ = drawn(counts)
        split = Split()
        for mb in range(3):
            x, _, dy = drawn(counts, mb)
            queue = Deferred()
            if halves:
                with split.into(queue):
                    y = split.grouped(x, w, counts)
            else:
                y = grouped.product(x, w, counts)
            y.backward(dy)
            queue.run()
        grads.append(w.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)


def test_an_outer_gradient_that_is_no_block_of_memory_is_taken():
    """A transposed dy, as a sum over it hands it on."""
    x, w, _ = drawn([2, 0, 3])
    grouped.product(x, w, [2, 0, 3]).sum().backward()
    dx, dw = x.grad, w.grad
    x.grad = w.grad = None
    grouped.product(x, w, [2, 0, 3]).backward(torch.ones(3, 5, dtype=torch.float64).T)
    torch.testing.assert_close((x.grad, w.grad), (dx, dw), rtol=0, atol=0)


@pytest.mark.parametrize("counts", [[2, 2], [2, 1, 1], [5, 0, 0]])
def test_counts_that_are_not_those_of_the_rows_are_refused(counts):
    x, w, _ = drawn([2, 1, 1]) if len(counts) == 2 else drawn([2, 2, 1])
    if len(counts) == 3 and sum(counts) == len(x):
        x = x[:-1]
    with pytest.raises(ValueError, match="rows an expert"):
        grouped.product(x, w, counts)


def test_a_frozen_input_needs_no_gradient():
    """Only the weights': no work is done for dx."""
    x, w, dy = drawn([2, 1])
    y = grouped.product(x.detach(), w, [2, 1])
    y.backward(dy)
    assert w.grad is not None and y.grad_fn.next_functions[0][0] is None

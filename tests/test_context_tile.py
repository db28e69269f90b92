"""A tile is the formula's, its two kernels agree, and tiles merge into the whole row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.context import METHODS
from parallel_core.context.attention import LAYERS
from parallel_core.context.layout import Tile
from parallel_core.context.merge import Running
from parallel_core.context.tile import (
    Queries,
    attend,
    attend_backward,
    backward_into,
    written_out,
    written_out_backward,
)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_every_method_has_its_layer():
    """The table without torch and the table with it have the same names, in the same order."""
    assert list(METHODS) == list(LAYERS)


@given(
    st.integers(1, 9), st.integers(1, 9), st.sampled_from([(1, 1), (4, 2), (3, 1)]), st.booleans()
)
def test_the_fused_kernel_is_the_formula(s, t, heads, diagonal):
    """Result, lse and the three gradients in float64, grouped heads too."""
    h, g = heads
    t = s if diagonal else t
    q, da = draw(2, 2, h, s, 4)
    k, v = draw(2, 2, g, t, 4, seed=1)
    a, lse = attend(q, k, v, diagonal=diagonal)
    k_h, v_h = (x.repeat_interleave(h // g, dim=1) for x in (k, v))
    plain, plain_lse = written_out(q, k_h, v_h, diagonal)
    torch.testing.assert_close(a, plain)
    torch.testing.assert_close(lse, plain_lse)
    queries = Queries(q, a, da, lse)
    dq, dk, dv = attend_backward(queries, k, v, diagonal=diagonal)
    plain_dq, *plain_dkv = written_out_backward(queries, k_h, v_h, diagonal)
    torch.testing.assert_close(dq, plain_dq)
    for d, each in zip((dk, dv), plain_dkv, strict=True):
        torch.testing.assert_close(d, each.reshape(2, g, h // g, t, 4).sum(2))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.sampled_from([(2, 2), (4, 2)]))
def test_dropped_weights_are_those_of_one_softmax(sizes, heads):
    """Keys in pieces, some weights dropped after the softmax: result and gradients are autograd's
    of the formula over all keys, and the lse knows of no dropout."""
    t, (h, g) = sum(sizes), heads
    q, da, kv = draw(1, h, 3, 4), draw(1, h, 3, 4, seed=2), draw(2, 1, g, t, 4, seed=1)
    factor = (draw(1, h, 3, t, seed=3) > 0) / 0.5
    leaves = [x.clone().requires_grad_() for x in (q, *kv)]
    k, v = (x.repeat_interleave(h // g, dim=1) for x in leaves[1:])
    scores = leaves[0] @ k.mT / 2
    whole = (torch.softmax(scores, -1) * factor) @ v
    whole.backward(da)

    def factors(tile: Tile) -> torch.Tensor:
        return factor[:, :, :, tile.cols.start : tile.cols.stop]

    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    tiles = [Tile(range(3), range(end - n, end)) for n, end in zip(sizes, ends, strict=True)]
    running = Running(q, torch.float64)
    running.meet(q, kv, tuple(tiles), factors)
    torch.testing.assert_close(running.out_bhsk, whole)
    torch.testing.assert_close(running.lse_bhs, torch.logsumexp(scores, -1))
    dq, dkv = torch.zeros_like(q), torch.zeros_like(kv)
    queries = Queries(q, running.out_bhsk, da, running.lse_bhs)
    for tile in tiles:
        backward_into(queries, kv, tile, dq=dq, dkv=dkv, factors=factors)
    for found, leaf in zip((dq, *dkv), leaves, strict=True):
        torch.testing.assert_close(found, leaf.grad)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.randoms())
def test_tiles_merge_into_the_whole_row(sizes, random):
    """Keys in any pieces, in any order: the same result and lse as all at once."""
    t = sum(sizes)
    q, kv = draw(1, 2, 3, 4), 10 * draw(2, 1, 2, t, 4, seed=1)  # large scores, or exp is harmless
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    pieces = [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    random.shuffle(pieces)
    running = Running(q, torch.float64)
    running.meet(q, kv, tuple(Tile(range(3), piece) for piece in pieces))
    whole, lse = attend(q, kv[0], kv[1], diagonal=False)
    torch.testing.assert_close(running.out_bhsk, whole)
    torch.testing.assert_close(running.lse_bhs, lse)


def test_rows_without_keys_stay_empty():
    """Zero and minus infinity: nothing is NaN, and the first merge takes its result as it is."""
    q = draw(1, 1, 4, 2)
    running = Running(q, torch.float64)
    assert not running.out_bhsk.any() and bool((running.lse_bhs == -math.inf).all())
    found, lse = draw(1, 1, 2, 2, seed=1), draw(1, 1, 2, seed=2)
    running.add(range(2, 4), found, lse)
    assert torch.equal(running.out_bhsk[:, :, 2:], found)
    assert not running.out_bhsk[:, :, :2].any()


@pytest.mark.parametrize(("dtype", "grows"), [(torch.float32, False), (torch.bfloat16, True)])
def test_the_error_of_merging_in_bfloat16_grows_with_the_ring(dtype, grows):
    """From 2 to 64 blocks: several times the error, where float32 keeps it as it is."""
    q, kv = draw(1, 2, 256, 32).bfloat16(), draw(2, 1, 2, 1024, 32, seed=1).bfloat16()
    right, _ = attend(q.double(), *kv.double(), diagonal=False)
    errors = []
    for n in (2, 8, 64):
        running = Running(q, dtype)
        size = 1024 // n
        blocks = [range(i * size, (i + 1) * size) for i in range(n)]
        running.meet(q, kv, tuple(Tile(range(256), block) for block in blocks))
        a = running.out_bhsk.bfloat16().double()
        errors.append(float((a - right).norm() / right.norm()))
    if grows:
        assert errors[1] > 1.5 * errors[0] and errors[2] > 1.5 * errors[1]
    else:
        assert max(errors) < 1.01 * min(errors) < 0.005

"""Random numbers depend on (seed, site, index) alone, and look random."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core import rng

WHOLE = torch.arange(4096)
WORD = 1 << 64
WRITTEN = [0.7281790566867149, 0.2755599674035576]


def _split_mix(state):
    """SplitMix64 in Python's unbounded integers."""
    z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def test_bits_are_the_published_split_mix_64(monkeypatch):
    """The sequence of state 1234567, as printed for the reference C code."""
    monkeypatch.setattr(rng, "_key", lambda seed, site: 1234567)
    words = [int(w) % WORD for w in rng.bits(0, "x", torch.arange(5))]
    assert words == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(0, 2**31 - 1), st.text(max_size=20), st.integers(0, 2**62))
def test_int64_wraps_like_unsigned_words(seed, site, index):
    """torch's signed arithmetic gives the bits that unbounded integers give, for any index."""
    state = (rng._key(seed, site) + (index + 1) * 0x9E3779B97F4A7C15) % WORD
    assert int(rng.bits(seed, site, torch.tensor(index))) % WORD == _split_mix(state)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4095), min_size=1, max_size=50), st.integers(0, 9))
def test_any_subset_gives_the_numbers_of_the_whole(some, seed):
    """To the last bit: any elements, in any order, at any stride or alignment."""
    index = torch.tensor(some)
    for draw in (rng.uniform, rng.normal):
        whole = draw(seed, "w", WHOLE)
        assert torch.equal(draw(seed, "w", index), whole[index])
        start, stride = some[0], seed + 1
        assert torch.equal(draw(seed, "w", WHOLE[start::stride]), whole[start::stride])


def test_shapes_are_kept():
    """A grid of indices gives a grid of the same numbers, also when it is not contiguous."""
    for draw in (rng.uniform, rng.normal):
        whole = draw(0, "w", WHOLE).view(64, 64)
        assert torch.equal(draw(0, "w", WHOLE.view(64, 64).T), whole.T)


def test_a_site_is_hashed_alike_everywhere():
    """The numbers are the same in every process and every release: two are written down."""
    assert rng._key(0, "w") == rng._key(0, ("w",)) != rng._key(1, "w")
    got = rng.uniform(0, ("dropout", 3, "embed"), torch.tensor([0, 10**12]))
    torch.testing.assert_close(got, torch.tensor(WRITTEN, dtype=torch.float64), rtol=0, atol=0)


def test_uniform_numbers_are_uniform():
    """Mean 1/2, variance 1/12, and every hundredth is hit alike (chi-square, 99 degrees)."""
    n = 1_000_000
    u = rng.uniform(7, "site", torch.arange(n))
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 1 / 2) < 5 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    hits = torch.bincount((u * 100).long(), minlength=100).double()
    assert 50 < ((hits - n / 100) ** 2 / (n / 100)).sum() < 160


def test_normal_numbers_are_normal():
    """The first four moments, and the share beyond two deviations."""
    n = 1_000_000
    z = rng.normal(7, "site", torch.arange(n))
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 5 * (96 / n) ** 0.5
    assert abs((z.abs() > 2).double().mean() - 0.0455003) < 5 * (0.0434 / n) ** 0.5


@pytest.mark.parametrize(
    "other",
    [(1, "a"), (0, "b"), (0, ("a", 0)), (0, ("a", 1)), ("neighbour", 1), ("neighbour", 2)],
)
def test_sites_seeds_and_neighbours_are_independent(other):
    """Two streams, or one and its own shift, are uncorrelated to 5 deviations."""
    n = 200_000
    ours = rng.normal(0, "a", torch.arange(n))
    if other[0] == "neighbour":
        theirs = rng.normal(0, "a", torch.arange(n) + other[1])
    else:
        theirs = rng.normal(*other, torch.arange(n))
    assert abs((ours * theirs).mean()) < 5 / n**0.5
    assert (ours == theirs).sum() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_numbers():
    """Uniform numbers to the bit; normal ones to the last bits of log and cos."""
    there = WHOLE.cuda()
    assert torch.equal(rng.uniform(0, "w", there).cpu(), rng.uniform(0, "w", WHOLE))
    torch.testing.assert_close(rng.normal(0, "w", there).cpu(), rng.normal(0, "w", WHOLE))

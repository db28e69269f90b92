"""Random numbers that depend on (seed, site, index) and on nothing else.

A site is what the numbers are for (a parameter's name, a dropout), an index is an element's place
in the *whole* tensor. There is no state to advance: a rank that owns a shard draws the elements of
that shard alone, and gets what one process would have put there.

    key  = hash(seed, site)                          64 bits, blake2b
    bits = mix(key + (index + 1) * golden ratio)     SplitMix64

SplitMix64: Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195. torch has no unsigned 64-bit
arithmetic, so the words are int64, which wraps around alike on CPU and CUDA.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

Site = str | int | tuple[str | int, ...]


def _signed(word: int) -> int:
    """The int64 that has the bits of an unsigned 64-bit word."""
    return word - (1 << 64) if word >> 63 else word


GOLDEN = _signed(0x9E3779B97F4A7C15)
MIX_1 = _signed(0xBF58476D1CE4E5B9)
MIX_2 = _signed(0x94D049BB133111EB)


def bits(seed: int, site: Site, index: Tensor) -> Tensor:
    """64 random bits an element, as int64 of the shape and device of the int64 `index`."""
    z = index * GOLDEN + _signed((_key(seed, site) + GOLDEN) % (1 << 64))
    z = (z ^ _shift_right(z, 30)) * MIX_1
    z = (z ^ _shift_right(z, 27)) * MIX_2
    return z ^ _shift_right(z, 31)


def uniform(seed: int, site: Site, index: Tensor) -> Tensor:
    """Numbers in [0, 1), float64 with 53 random bits, of the shape and device of `index`."""
    return _shift_right(bits(seed, site, index), 11).double() * 2.0**-53


def normal(seed: int, site: Site, index: Tensor) -> Tensor:
    """Standard normal numbers, float64, of the shape and device of `index` (below 2**62).

    Box and Muller 1958, on the two uniform numbers 2 index and 2 index + 1. `log` and `cos` may
    differ in the last bit between a CPU and a GPU, so weights are drawn on the CPU.
    """
    twice = index * 2
    radius = torch.log(1 - uniform(seed, site, twice)).mul_(-2).sqrt_()
    return torch.cos(uniform(seed, site, twice + 1) * (2 * math.pi)).mul_(radius)


def _key(seed: int, site: Site) -> int:
    parts = site if isinstance(site, tuple) else (site,)
    name = repr((int(seed), *(p if isinstance(p, str) else int(p) for p in parts))).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def _shift_right(word: Tensor, by: int) -> Tensor:
    """Shift in zeros: the mask drops the copies of the sign bit that int64 shifts in."""
    return (word >> by) & ((1 << (64 - by)) - 1)

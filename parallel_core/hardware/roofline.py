"""The roofline: a kernel runs no faster than its arithmetic or its bytes allow.

    FLOP/s |        ________ peak
           |       /
           |      / bandwidth x intensity
           |_____/____________ intensity, FLOP per byte moved
                 ^ ridge = peak / bandwidth

Left of the ridge a kernel is memory-bound and more arithmetic is free; right of it it is
compute-bound and more bandwidth is wasted. A message is one more stream of bytes, so a link puts
a second roof over the same kernel. Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernel:
    """A piece of work: FLOPs it computes, bytes it moves to and from memory."""

    name: str
    flops: float
    moved: float

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOP per byte."""
        return self.flops / self.moved

    def seconds(self, peak: float, bandwidth: float) -> float:
        """Least time on a machine of `peak` FLOP/s and `bandwidth` bytes/s, fully overlapped."""
        return max(self.flops / peak, self.moved / bandwidth)


def ridge(peak: float, bandwidth: float) -> float:
    """The intensity where the two roofs meet, FLOP per byte.

    >>> round(ridge(989e12, 3.35e12))     # H100 SXM, bf16
    295
    """
    return peak / bandwidth


def attainable(intensity: float, peak: float, bandwidth: float) -> float:
    """The roof over a kernel, FLOP/s: min(peak, intensity x bandwidth)."""
    return min(peak, intensity * bandwidth)


def matmul(m: int, n: int, k: int, element: int = 2) -> Kernel:
    """x[m, k] @ w[k, n]: 2mnk FLOPs; x, w and the result each cross memory once.

    `element` is bytes per element. Once is the best a kernel can do: it takes tiles that fit the
    cache, which is what a blocked matmul is for.
    """
    return Kernel(f"matmul {m}x{k} @ {k}x{n}", 2.0 * m * n * k, element * (m * k + k * n + m * n))


def decode(
    batch: int, params: float, cached_bytes: float = 0.0, *, element: float = 2, compute: float = 2
) -> Kernel:
    """One decode step of `batch` sequences: 2N FLOPs each, all weights read once for all of them.

    The weight matmuls leave the memory roof at a batch of about ridge x element / 2 (295 for
    bf16 on an H100). `cached_bytes`, the KV cache of one sequence, is read per sequence and so
    grows with the batch: attention stays memory-bound however large the batch. `element` is
    bytes per weight; `compute` FLOPs per weight and token.
    """
    moved = element * params + batch * cached_bytes
    return Kernel(f"decode, batch {batch}", compute * params * batch, moved)


def elementwise(count: int, size: int, *, fused: bool, element: int = 2) -> Kernel:
    """A chain of `count` one-FLOP operations on `size` elements, fused into one pass or not."""
    passes = 1 if fused else count
    return Kernel(f"{count} elementwise ops", float(count * size), 2.0 * element * size * passes)


def attention(length: int, head_dim: int, *, flash: bool, element: int = 2) -> Kernel:
    """One head's forward over `length` tokens: 4 n^2 d FLOPs (the softmax's few are left out).

    Unfused, the n x n scores are written, read by the softmax, written and read again. A flash
    kernel keeps a tile of them on chip: q, k, v and the output cross memory once, supposing that
    one block row of queries fits. Dao et al. 2022, arXiv:2205.14135.
    """
    ends = 4 * length * head_dim
    scores = 0 if flash else 4 * length * length
    return Kernel("attention", 4.0 * length * length * head_dim, element * (ends + scores))


def tensor_parallel_mlp(tokens: int, hidden: int, ffn: int, ranks: int, element: int = 2) -> Kernel:
    """One rank's forward of a two-matmul MLP cut over `ranks`; `moved` is bytes on the *wire*.

    4 T h f / t FLOPs against one ring all-reduce of T h elements, of which a rank sends
    2(t-1)/t. The intensity 2 f / ((t-1) element) knows no batch: only a faster link, a wider
    layer or fewer ranks helps.
    """
    _at_least_two(ranks)
    sent = 2 * (ranks - 1) / ranks * tokens * hidden * element
    return Kernel(f"MLP on tp={ranks}", 4.0 * tokens * hidden * ffn / ranks, sent)


def data_parallel_step(tokens: int, params: float, ranks: int, element: int = 2) -> Kernel:
    """One rank's step on its own `tokens`; `moved` is bytes on the *wire*.

    6 N T FLOPs against one ring all-reduce of N gradients: the intensity
    3 T n / ((n-1) element) grows with the tokens a rank works on between two reductions.
    """
    _at_least_two(ranks)
    sent = 2 * (ranks - 1) / ranks * params * element
    return Kernel(f"step on dp={ranks}", 6.0 * params * tokens, sent)


def _at_least_two(ranks: int) -> None:
    if ranks < 2:
        raise ValueError(f"ranks={ranks} send nothing; a communication roof needs 2 or more")

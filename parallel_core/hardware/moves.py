"""What moves a kernel along the roofline: each technique as the same work, before and after.

Each pair is computed from the kernels in roofline.py; only `coalesce` and `recompute` change
something else than intensity, and say so.
"""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.hardware.roofline import Kernel, attention, decode, elementwise, matmul

TILE = 128  # rows and columns of a block that fits on chip


@dataclass(frozen=True)
class Move:
    """A technique: the kernel before and after it, and what it trades, in one sentence."""

    name: str
    before: Kernel
    after: Kernel
    why: str


def _untiled(n: int, element: int) -> Kernel:
    """An n-cubed matmul without reuse: every multiply loads both of its operands again."""
    return Kernel("matmul, no tiles", 2.0 * n**3, element * (2.0 * n**3 + n**2))


def _tiled(n: int, element: int) -> Kernel:
    """The same in square tiles: an operand is loaded once per tile it meets."""
    return Kernel("matmul, tiled", 2.0 * n**3, element * (2.0 * n**3 / TILE + n**2))


def moves(n: int = 4096, head_dim: int = 128, params: float = 8e9) -> tuple[Move, ...]:
    """The techniques at one size: n tokens or rows, bf16, a model of `params` to decode."""
    stream = elementwise(1, n * n, fused=True)
    chain = elementwise(6, n * n, fused=False)
    layer = matmul(n, n, n)
    return (
        Move(
            "coalescing",
            Kernel("strided reads", stream.flops, stream.moved * 8),
            stream,
            "Memory is read in whole 32-byte sectors: with a stride of eight elements one byte in "
            "eight is used.",
        ),
        Move(
            "fusion",
            chain,
            elementwise(6, n * n, fused=True),
            "Six elementwise operations in one pass read and write once instead of six times.",
        ),
        Move(
            "tiling",
            _untiled(n, 2),
            _tiled(n, 2),
            f"A {TILE} x {TILE} tile on chip serves {TILE} multiplies per element loaded.",
        ),
        Move(
            "flash attention",
            attention(n, head_dim, flash=False),
            attention(n, head_dim, flash=True),
            "The n x n scores never leave the chip.",
        ),
        Move(
            "quantization",
            decode(1, params, element=2),
            decode(1, params, element=0.5),
            "4-bit weights are a quarter of the bytes; the arithmetic stays the same.",
        ),
        Move(
            "batching",
            decode(1, params),
            decode(64, params),
            "All sequences of a batch share one reading of the weights.",
        ),
        Move(
            "recomputation",
            Kernel("layer, inputs kept", layer.flops, layer.moved),
            Kernel("layer, recomputed", 2 * layer.flops, 2 * layer.moved),
            "The forward runs twice: no higher on the roof, more work under it. It buys capacity, "
            "and pays when that capacity holds a larger batch.",
        ),
    )

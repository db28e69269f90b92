"""The messages of one attention layer, method by method, as one rank hands them over.

B rows, S/cp positions a rank, H query and G key/value heads of width K, w bytes an element. Sums of
several ranks' parts (marked w') travel in at least float32.

    method      forward                             backward
    allgather   gather  kv  2BG(S/cp)K w            gather kv; scatter dkv 2BGSK w'
    ring        n-1 x kv    2BG(S/cp)K w            n-1 x kv; n x dkv 2BG(S/cp)K w'
    pass-q      n-1 x q     BH(S/cp)K w             n-1 x (q, a, da: three q; lse w')
                all-to-all of (a, lse) BHS(K+1) w'  all-to-all of dq BHSK w'
    ulysses     all-to-all of q, k, v; of a         all-to-all of da; of dq, dk, dv
    hybrid      ulysses' around ring's, of H/u heads over u times the positions

A hop of a ring is a shift. What a collective really moves over the wire is (n-1)/n of
an all-to-all or a scatter, n-1 times a gathered shard (cost.wire_bytes). Gradients need one hop
more than keys and values: they have to come home.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from parallel_core.context.layout import AXIS, HEADS, RING, Layout
from parallel_core.cost import wire_bytes
from parallel_core.program import Op


@dataclass(frozen=True)
class Move:
    """One message of one rank: its op, its mesh axis, what it carries, the bytes handed over.

    With overlap it is under way while the tiles of `hop` are computed; None where nothing is.
    """

    op: Op
    axis: str
    what: str
    bytes: int
    hop: int | None = None


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """One attention layer: its sizes, its layout, bytes an element.

    `merge_width` is the width in which sums of several ranks' parts are kept and sent; by default
    that of float32, or of the elements where they are wider.
    """

    layout: Layout
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int = 2
    merge_width: int | None = None

    def __post_init__(self) -> None:
        check_heads(self.heads, self.kv_heads, self.layout.ulysses)

    @property
    def merged(self) -> int:
        """Bytes of an element of a sum."""
        return self.merge_width or max(self.width, 4)

    @property
    def q(self) -> int:
        """Elements of a block's queries, of the heads that are here: B(H/u)(uS/cp)K."""
        return self.batch * self.heads * self.layout.share * self.head_dim

    @property
    def kv(self) -> int:
        """Elements of a block's keys and values together, of the heads that are here."""
        keys = self.layout.block + self.layout.cached_block
        here = kv_here(self.kv_heads, self.layout.ulysses)
        return 2 * self.batch * here * keys * self.head_dim


def check_heads(heads: int, kv_heads: int, ulysses: int) -> None:
    """ValueError if these heads cannot be dealt out to `ulysses` ranks."""
    if heads % kv_heads:
        raise ValueError(f"kv_heads={kv_heads} must divide heads={heads}")
    if heads % ulysses:
        raise ValueError(f"heads={heads} must divide over ulysses={ulysses} ranks")
    if kv_heads % ulysses and ulysses % kv_heads:
        raise ValueError(
            f"kv_heads={kv_heads} and ulysses={ulysses}: one must be a multiple of the other, so"
            " that every rank gets as many, or the same number of ranks holds each"
        )


def kv_here(kv_heads: int, ulysses: int) -> int:
    """Key/value heads on each of `ulysses` ranks: its share, or one that several ranks hold."""
    return max(kv_heads // ulysses, 1)


def ring_axis(layout: Layout) -> str:
    """The mesh axis along which blocks travel."""
    return AXIS if layout.ulysses == 1 else RING


def heads_axis(layout: Layout) -> str:
    """The mesh axis along which heads are dealt out."""
    return AXIS if layout.rings == 1 else HEADS


def gather_kv(shape: LayerShape, backward: bool) -> tuple[Move, ...]:
    """All keys and values at once; their gradients are summed and dealt out in one message."""
    n = shape.layout.ranks
    if n == 1:
        return ()
    gather = Move(Op.ALL_GATHER, AXIS, "kv", shape.kv * shape.width)
    scatter = Move(Op.REDUCE_SCATTER, AXIS, "dkv", n * shape.kv * shape.merged)
    return (gather, scatter) if backward else (gather,)


def ring(shape: LayerShape, backward: bool) -> tuple[Move, ...]:
    """Keys and values round the ring; behind them, one hop later, their gradients."""
    layout = shape.layout
    if layout.rings == 1:
        return ()
    axis, last, moves = ring_axis(layout), layout.rings - 1, list[Move]()
    for hop in range(layout.rings):
        if hop < last:
            moves.append(Move(Op.SHIFT, axis, "kv", shape.kv * shape.width, hop))
        if backward:  # what this hop's tiles have added to goes on while the next one's add theirs
            size = shape.kv * shape.merged
            moves.append(Move(Op.SHIFT, axis, "dkv", size, hop + 1 if hop < last else None))
    return tuple(moves)


def pass_q(shape: LayerShape, backward: bool) -> tuple[Move, ...]:
    """Queries round the ring; what they found comes home in one all-to-all."""
    n = shape.layout.ranks
    if n == 1:
        return ()
    rows = shape.q // shape.head_dim
    guests = {"q": shape.q * shape.width}
    home = Move(Op.ALL_TO_ALL, AXIS, "a_lse", n * (shape.q + rows) * shape.merged)
    if backward:
        guests = {"q_a_da": 3 * shape.q * shape.width, "lse": rows * shape.merged}
        home = Move(Op.ALL_TO_ALL, AXIS, "dq", n * shape.q * shape.merged)
    there = [
        Move(Op.SHIFT, AXIS, what, size, hop)
        for hop in range(n - 1)
        for what, size in guests.items()
    ]
    return (*there, home)


def ulysses(shape: LayerShape, backward: bool) -> tuple[Move, ...]:
    """From a part of the sequence to a part of the heads, and back."""
    return _around(shape, (), backward)


def hybrid(shape: LayerShape, backward: bool) -> tuple[Move, ...]:
    """A ring between two all-to-alls."""
    return _around(shape, ring(shape, backward), backward)


def _around(shape: LayerShape, inside: tuple[Move, ...], backward: bool) -> tuple[Move, ...]:
    if shape.layout.ulysses == 1:
        return inside
    axis, d = heads_axis(shape.layout), "d" if backward else ""
    qkv = Move(Op.ALL_TO_ALL, axis, f"{d}qkv", (shape.q + shape.kv) * shape.width)
    a = Move(Op.ALL_TO_ALL, axis, f"{d}a", shape.q * shape.width)
    return (a, *inside, qkv) if backward else (qkv, *inside, a)


def counts(moves: Iterable[Move]) -> dict[tuple[str, str], tuple[int, int]]:
    """(axis, op) -> (messages, payload bytes), as `Comm.counts` has it."""
    table: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for move in moves:
        count, total = table[move.axis, move.op.value]
        table[move.axis, move.op.value] = (count + 1, total + move.bytes)
    return dict(table)


def sent(moves: Iterable[Move], layout: Layout) -> int:
    """Bytes that leave one rank, each collective as its cheapest algorithm has it."""
    degree = {AXIS: layout.ranks, HEADS: layout.ulysses, RING: layout.rings}
    return sum(
        wire_bytes(move.op, move.bytes, degree[move.axis]) // degree[move.axis] for move in moves
    )

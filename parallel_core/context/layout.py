"""Who holds which positions of a sequence, and who computes which tile of the attention matrix.

    n=4   contiguous   r0: 0 1      r1: 2 3      r2: 4 5      r3: 6 7
          zigzag       r0: 0 7      r1: 1 6      r2: 2 5      r3: 3 4      eighths of the sequence

Nouns. A *block* is what one member of the ring holds, a *chunk* a run of neighbouring positions:
a contiguous block is one chunk, a zigzag block chunks r and 2n-1-r. A *tile* is the scores of some
rows (queries) of one block with some columns (keys) of another. With Ulysses inside the ring,
`ulysses` neighbouring ranks share a block, each its own *share* of it.

Under a causal mask a query attends to the keys up to itself. Cut contiguously the first block has
the least to do and the last the most; zigzag gives everyone the same. A sequence that does not
divide is padded at its end. Positions of a block ascend, so what is real comes before the padding.
Zigzag: Zhu 2024, github.com/zhuzilin/ring-flash-attention; Grattafiori et al. 2024,
arXiv:2407.21783, section 3.3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

AXIS, HEADS, RING = "cp", "ulysses", "ring"
"""Mesh axes: cp is `ulysses` (inner) times `ring` where both are more than one rank."""


class Travels(StrEnum):
    """What goes from rank to rank, hop by hop."""

    KV = "kv"
    Q = "q"
    NOTHING = "nothing"  # all keys are there before the first tile


@dataclass(frozen=True)
class Tile:
    """Rows of a block of queries against columns of a block of keys.

    A `diagonal` tile is square, and row i sees columns up to i; others have no mask.
    """

    rows: range
    cols: range
    diagonal: bool = False

    @property
    def pairs(self) -> int:
        """(query, key) pairs that count."""
        n = len(self.rows)
        return n * (n + 1) // 2 if self.diagonal else n * len(self.cols)

    @property
    def area(self) -> Fraction:
        """Its part of the matrix, in elements: the diagonal cuts a square in half."""
        whole = Fraction(len(self.rows) * len(self.cols))
        return whole / 2 if self.diagonal else whole


@dataclass(frozen=True)
class Step:
    """One cell of the tile map: rank `ring` computes q chunk against k chunk at this hop."""

    ring: int
    hop: int
    q_chunk: int
    k_chunk: int
    diagonal: bool


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How `seq` new tokens, after `cached` ones, lie on `ranks`.

    Cached tokens have keys and values only; they lie contiguously, before the new ones in a rank's
    keys. ValueError where `ulysses` does not divide `ranks`.

    >>> zigzag = Layout(seq=8, ranks=4, zigzag=True)
    >>> [zigzag.positions(rank) for rank in range(4)]
    [(0, 7), (1, 6), (2, 5), (3, 4)]
    >>> Layout(seq=7, ranks=4).real(3)
    1
    """

    seq: int
    ranks: int = 1
    zigzag: bool = False
    ulysses: int = 1
    cached: int = 0

    def __post_init__(self) -> None:
        if min(self.seq, self.ranks, self.ulysses) < 1 or self.cached < 0:
            raise ValueError(
                f"{self}: seq, ranks and ulysses must be at least 1, cached at least 0"
            )
        if self.ranks % self.ulysses:
            raise ValueError(f"ulysses={self.ulysses} must divide the {self.ranks} ranks of cp")

    @property
    def rings(self) -> int:
        """Members of the ring: each holds one block."""
        return self.ranks // self.ulysses

    @property
    def padded(self) -> int:
        """`seq`, rounded up so that it divides into equal chunks and shares."""
        unit = self.ranks * (2 if self.zigzag else 1)
        return -(-self.seq // unit) * unit

    @property
    def share(self) -> int:
        """New positions on a rank, padding included."""
        return self.padded // self.ranks

    @property
    def block(self) -> int:
        """New positions of a member of the ring: those of its `ulysses` ranks together."""
        return self.share * self.ulysses

    @property
    def chunk(self) -> int:
        """Neighbouring positions: a block, or half of one under zigzag."""
        return self.block // 2 if self.zigzag else self.block

    @property
    def cached_share(self) -> int:
        """Cached positions on a rank, padding included."""
        return -(-self.cached // self.ranks)

    @property
    def cached_block(self) -> int:
        """Cached positions of a member of the ring."""
        return self.cached_share * self.ulysses

    def chunks(self, ring: int) -> tuple[int, ...]:
        """The chunks of a member's block, in order."""
        return (ring, 2 * self.rings - 1 - ring) if self.zigzag else (ring,)

    def positions(self, rank: int) -> tuple[int, ...]:
        """Where the new tokens of a rank stand in the whole sequence (after the cached ones).

        From `cached + seq` on they are padding.
        """
        start = rank % self.ulysses * self.share
        return self.block_positions(rank // self.ulysses)[start : start + self.share]

    def block_positions(self, ring: int) -> tuple[int, ...]:
        """The same of a member's whole block."""
        starts = (self.cached + chunk * self.chunk for chunk in self.chunks(ring))
        return tuple(start + i for start in starts for i in range(self.chunk))

    def cached_positions(self, rank: int) -> tuple[int, ...]:
        """Where the cached tokens of a rank stand; from `cached` on they are padding."""
        start = rank * self.cached_share
        return tuple(range(start, start + self.cached_share))

    def is_real(self, rank: int) -> tuple[bool, ...]:
        """Position by position of a rank: is it a token, or padding that counts in no loss?"""
        end = self.cached + self.seq
        return tuple(position < end for position in self.positions(rank))

    def real(self, ring: int) -> int:
        """How many new positions of a block are tokens: its first ones."""
        starts = (chunk * self.chunk for chunk in self.chunks(ring))
        return sum(min(max(self.seq - start, 0), self.chunk) for start in starts)

    def real_cached(self, ring: int) -> int:
        """How many cached positions of a block are tokens: its first ones."""
        return min(max(self.cached - ring * self.cached_block, 0), self.cached_block)

    def tiles(self, queries: int, keys: int, causal: bool = True) -> tuple[Tile, ...]:
        """What the queries of one block have to do with the keys of another; () for nothing.

        Columns count from the first cached key of the block.
        """
        rows = range(self.real(queries))
        old = Tile(rows, range(self.real_cached(keys)))
        at, stop = self.cached_block, self.cached_block + self.real(keys)
        new = Tile(rows, range(at, stop))
        if causal and queries == keys:
            new = Tile(rows, new.cols, diagonal=True)
        elif causal and self.zigzag and queries > keys:
            # both q chunks stand after the first k chunk and before the second
            new = Tile(rows, range(at, at + self.chunk))
        elif causal and self.zigzag:
            # only the second q chunk stands after the k chunks, and after both
            new = Tile(range(self.chunk, len(rows)), new.cols)
        elif causal and queries < keys:
            new = Tile(rows, range(0))
        return tuple(tile for tile in (old, new) if tile.rows and tile.cols)

    def rows(self, queries: int, keys: int, causal: bool = True) -> range:
        """The rows that any of these tiles has: those of the first, which has what others have."""
        found = self.tiles(queries, keys, causal)
        return found[0].rows if found else range(0)


def meets(ring: int, hop: int, rings: int, travels: Travels) -> tuple[int, int]:
    """Which block of queries meets which block of keys on a member at a hop.

    What travels goes to the next member each hop, so it comes from the one before.
    """
    other = (ring - hop) % rings
    return (other, ring) if travels == Travels.Q else (ring, other)


def tile_map(layout: Layout, causal: bool = True, travels: Travels = Travels.KV) -> list[Step]:
    """Every chunk of the attention matrix that counts: who computes it at which hop.

    Rows and columns of new tokens only. With nothing travelling all is hop 0.
    """
    steps = []
    for ring in range(layout.rings):
        for hop in range(layout.rings):
            queries, keys = meets(ring, hop, layout.rings, travels)
            beat = 0 if travels == Travels.NOTHING else hop
            steps += [
                Step(ring, beat, q, k, causal and q == k)
                for q in layout.chunks(queries)
                for k in layout.chunks(keys)
                if k <= q or not causal
            ]
    return steps


def work(
    layout: Layout, causal: bool = True, travels: Travels = Travels.KV
) -> list[list[Fraction]]:
    """What each member does at each hop, in blocks squared.

    >>> [str(sum(hops)) for hops in work(Layout(seq=64, ranks=4))]
    ['1/2', '3/2', '5/2', '7/2']
    >>> [str(sum(hops)) for hops in work(Layout(seq=64, ranks=4, zigzag=True))]
    ['2', '2', '2', '2']
    """
    table = []
    for ring in range(layout.rings):
        met = [meets(ring, hop, layout.rings, travels) for hop in range(layout.rings)]
        table.append(
            [
                sum((tile.area for tile in layout.tiles(q, k, causal)), Fraction(0))
                / layout.block**2
                for q, k in met
            ]
        )
    return table


def in_step(table: list[list[Fraction]]) -> Fraction:
    """The time of a ring that waits for its slowest member at every hop, in blocks squared.

    Contiguous over zigzag is 2 - 1/n: the causal mask halves the work, and not the time.

    >>> in_step(work(Layout(seq=64, ranks=4))) / in_step(work(Layout(seq=64, ranks=4, zigzag=True)))
    Fraction(7, 4)
    """
    return sum((max(hop) for hop in zip(*table, strict=True)), Fraction(0))

"""One forward of context-parallel attention on a clock: who computes what, who waits for whom.

    contiguous   r0  .5 |                zigzag   r0  .5 .5 .5 .5
                 r1  .5  1 |                      r1  .5 .5 .5 .5
                 r2  .5  1  1 |                   r2  .5 .5 .5 .5
                 r3  .5  1  1  1                  r3  .5 .5 .5 .5
                     0.5 1.5 2.5 3.5                  0.5 1  1.5 2

A *tile* is the unit of time: S/N queries against S/N keys with all heads, no mask. A *beat* lasts
from one hop to the next and as long as its slowest rank; the message under way beside it can make
it longer. So a beat lasts as long as its work and its bytes, never one tick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from parallel_core.context import METHODS
from parallel_core.context.layout import Travels, meets, work
from parallel_core.context.traffic import LayerShape, Move, sent

RESULTS = ("a", "a_lse")
"""What is sent when all tiles are done; other messages with no tile beside them come before."""


@dataclass(frozen=True)
class Beat:
    """From `start` to `end`, in tiles: what every rank computes, and the messages under way.

    `hop` is None where messages travel alone. `tiles` has one length a member of the ring.
    """

    hop: int | None
    start: float
    end: float
    tiles: tuple[float, ...]
    message: float
    what: str

    @property
    def length(self) -> float:
        """Tiles from start to end."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Clock:
    """One layer's forward by `method` over `shape`; `causal` or full.

    `balance` is how many FLOPs a rank computes while it sends one byte: 0 for messages that take
    no time. With `overlap` a hop is under way beside the tiles of the hop before it.
    """

    method: str
    shape: LayerShape
    causal: bool = True
    balance: float = 0.0
    overlap: bool = True

    @property
    def name(self) -> str:
        """The method and how it is cut: "zigzag", "ring, contiguous"."""
        cut = "zigzag" if self.shape.layout.zigzag else "contiguous"
        return self.method if self.method == cut else f"{self.method}, {cut}"

    @property
    def travels(self) -> Travels:
        """What goes round."""
        return METHODS[self.method].travels

    @property
    def moves(self) -> tuple[Move, ...]:
        """The forward's messages."""
        return METHODS[self.method].moves(self.shape, False)

    def message(self, moves: Sequence[Move]) -> float:
        """Tiles that a rank computes while it sends these."""
        shape = self.shape
        flops = 4 * shape.batch * shape.layout.share**2 * shape.heads * shape.head_dim
        return sent(moves, shape.layout) * self.balance / flops

    @cached_property
    def beats(self) -> tuple[Beat, ...]:
        """All of them in order; without a ring all tiles are one beat."""
        layout, alone = self.shape.layout, [move for move in self.moves if move.hop is None]
        found: list[Beat] = []
        # a ring of u ranks a member: a block is u times as long, and each has 1/u of the heads
        per = [[float(each) * layout.ulysses for each in row] for row in self._work()]
        self._alone(found, [move for move in alone if move.what not in RESULTS])
        for hop in range(len(per[0])):
            under = [move for move in self.moves if move.hop == hop]
            tiles, message = tuple(row[hop] for row in per), self.message(under)
            slowest = max(tiles)
            length = max(slowest, message) if self.overlap else slowest + message
            start = found[-1].end if found else 0.0
            found.append(Beat(hop, start, start + length, tiles, message, _names(under)))
        self._alone(found, [move for move in alone if move.what in RESULTS])
        return tuple(found)

    def _work(self) -> list[list[float]]:
        table = [
            [float(x) for x in row] for row in work(self.shape.layout, self.causal, self.travels)
        ]
        return [[sum(row)] for row in table] if self.travels == Travels.NOTHING else table

    def _alone(self, found: list[Beat], moves: list[Move]) -> None:
        if moves:
            start, length = found[-1].end if found else 0.0, self.message(moves)
            none = (0.0,) * self.shape.layout.rings
            found.append(Beat(None, start, start + length, none, length, _names(moves)))

    @property
    def total(self) -> float:
        """Tiles until the last rank is done, each hop waiting for the slowest."""
        return self.beats[-1].end

    @property
    def totals(self) -> tuple[float, ...]:
        """What each member of the ring computes in all."""
        return tuple(map(sum, zip(*(beat.tiles for beat in self.beats), strict=True)))

    @property
    def idle(self) -> float:
        """The part of all ranks' time in which they do not compute."""
        return 1 - sum(self.totals) / (self.total * len(self.totals))

    def beat_of(self, hop: int) -> Beat:
        """The beat of a hop."""
        return next(beat for beat in self.beats if beat.hop == hop)

    def visits(self, hop: int) -> tuple[int, ...]:
        """Whose block lies on each member at a hop: its keys, or under pass-Q its queries."""
        rings = self.shape.layout.rings
        at = [meets(ring, hop, rings, self.travels) for ring in range(rings)]
        return tuple(pair[0 if self.travels == Travels.Q else 1] for pair in at)


def _names(moves: Sequence[Move]) -> str:
    return ", ".join(dict.fromkeys(f"{move.op.value} {move.what}" for move in moves))


def account(clock: Clock) -> list[str]:
    """A sentence a beat, for those who cannot see the figure."""
    lines = []
    for beat in clock.beats:
        when = f"from {beat.start:.3g} to {beat.end:.3g} tiles"
        sends = f"{beat.what}, {beat.message:.3g} tiles" if beat.what else "nothing is sent"
        if beat.hop is None:
            lines.append(f"Nothing is computed {when}: {sends}.")
            continue
        each = ", ".join(f"{tiles:.3g}" for tiles in beat.tiles) + " tiles"
        if len(set(beat.tiles)) == 1:
            each = f"{beat.tiles[0]:.3g} tiles each"
        layout = clock.shape.layout
        who = "the members of the ring" if min(layout.ulysses, layout.rings) > 1 else "the ranks"
        lines.append(
            f"Hop {beat.hop}, {when}: {who} compute {each}; {sends}; {_visiting(clock, beat.hop)}."
        )
    return lines


def _visiting(clock: Clock, hop: int) -> str:
    if clock.travels == Travels.NOTHING:
        return "all keys that a rank needs are there"
    what = "queries" if clock.travels == Travels.Q else "keys"
    return f"{what} come from " + ", ".join(map(str, clock.visits(hop)))

"""The board on which each rank of a run shows that it lives and where it stands.

It is memory shared by fork, one cache line a rank, so a beat is two stores and no system call:

    step, index   the instruction the rank has begun (-1, -1: none yet)
    tick          counted up by the rank's pulse thread ten times a second
    cancel        set by the supervisor: please stop

A rank that waits for a peer ticks and does not move; a rank that is stopped does neither. That is
how the culprit of a hang is told from those who wait for it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import TypeAlias

STEP, INDEX, TICK, CANCEL = range(4)
TICK_S = 0.1  # seconds between two ticks of a rank
_ROW = 8  # 64-bit numbers a rank: one cache line, so ranks do not slow one another

Row: TypeAlias = "memoryview[int]"
Place: TypeAlias = tuple[int, int]  # (step, index)


class Board:
    """One row a rank, written by the rank and read by the supervisor."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._cells = memoryview(mmap.mmap(-1, 8 * _ROW * world_size)).cast("q")
        for rank in range(world_size):
            self.row(rank)[STEP] = self.row(rank)[INDEX] = -1

    def row(self, rank: int) -> Row:
        """The numbers of `rank`, writable."""
        return self._cells[_ROW * rank : _ROW * (rank + 1)]

    def place(self, rank: int) -> Place:
        """The step and the index of the instruction that `rank` began last."""
        row = self.row(rank)
        return row[STEP], row[INDEX]

    def cancel(self) -> None:
        """Ask every rank to stop."""
        for rank in range(self.world_size):
            self.row(rank)[CANCEL] = 1


class Watch:
    """How long each rank has not ticked, and how long no rank has moved, in seconds."""

    def __init__(self, board: Board, now: float) -> None:
        self._board = board
        self._seen: list[tuple[int, Place]] = [(0, (-1, -1))] * board.world_size
        self._ticked = [now] * board.world_size
        self._moved = now

    def look(self, now: float) -> None:
        """Read the board."""
        for rank in range(self._board.world_size):
            tick, place = self._board.row(rank)[TICK], self._board.place(rank)
            last_tick, last_place = self._seen[rank]
            self._seen[rank] = (tick, place)
            if tick != last_tick:
                self._ticked[rank] = now
            if place != last_place:
                self._moved = now

    def forgive(self, now: float) -> None:
        """Count from `now`: the watcher itself was paused, so it saw nobody tick."""
        self._ticked = [now] * self._board.world_size
        self._moved = now

    def heard(self, now: float) -> None:
        """An emitted event is a sign of progress too."""
        self._moved = now

    def stillness(self, rank: int, now: float) -> float:
        """Seconds since `rank` ticked."""
        return now - self._ticked[rank]

    def silence(self, now: float) -> float:
        """Seconds since any rank moved."""
        return now - self._moved

    def stillest(self, ranks: Iterable[int]) -> list[int]:
        """`ranks`, the one that has not ticked for longest first."""
        return sorted(ranks, key=lambda rank: self._ticked[rank])

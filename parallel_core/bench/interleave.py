"""Two contenders take turns in one run, so that drift hits both alike.

    round 0   ours peer peer ours
    round 1   peer ours ours peer        and so on

Within a round both stand at the same mean time: whatever grows evenly (heat, a neighbour's load)
cancels in the round's ratio. The order turns from round to round, so that being first in a round
favours nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

OURS, PEER = "ours", "peer"


@dataclass(frozen=True)
class Block:
    """What one contender did in one turn: `steps` steps in `seconds`."""

    round: int
    side: str
    steps: int
    seconds: float


def turns(rounds: int) -> Iterator[tuple[int, str]]:
    """(round, whose turn), four turns a round.

    >>> [side[0] for _, side in turns(2)]
    ['o', 'p', 'p', 'o', 'p', 'o', 'o', 'p']
    """
    for number in range(rounds):
        first, second = (OURS, PEER) if number % 2 == 0 else (PEER, OURS)
        for side in (first, second, second, first):
            yield number, side


def race(
    sides: dict[str, Callable[[], object]],
    rounds: int,
    steps: int,
    meet: Callable[[], None] = lambda: None,
) -> list[Block]:
    """Time `steps` calls of a side a turn; `meet` stands before each turn, untimed."""
    blocks = []
    for number, side in turns(rounds):
        meet()
        begin = time.perf_counter()
        for _ in range(steps):
            sides[side]()
        blocks.append(Block(number, side, steps, time.perf_counter() - begin))
    return blocks


def slowest(by_rank: Sequence[Sequence[Block]]) -> list[Block]:
    """The blocks of a run on several ranks: a turn is over when its last rank is."""
    return [
        Block(b[0].round, b[0].side, b[0].steps, max(block.seconds for block in b))
        for b in zip(*by_rank, strict=True)
    ]


def seconds_a_step(blocks: Sequence[Block], side: str) -> list[float]:
    """Seconds a step of one side, a number a round."""
    mine: dict[int, list[Block]] = {}
    for block in blocks:
        if block.side == side:
            mine.setdefault(block.round, []).append(block)
    return [sum(b.seconds for b in turn) / sum(b.steps for b in turn) for turn in mine.values()]

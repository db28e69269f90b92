"""Two contenders take turns in one run, so that drift hits both alike.

    round 0   ours peer peer ours
    round 1   peer ours ours peer        and so on

Within a round both stand at the same mean time: whatever grows evenly (heat, a neighbour's load)
cancels in the round's ratio. The order turns from round to round, so that being first in a round
favours nobody.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

OURS, PEER = "ours", "peer"


@dataclass(frozen=True)
class Block:
    """What one contender did in one turn: `steps` steps in `seconds`, of processor time `cpu`."""

    round: int
    side: str
    steps: int
    seconds: float
    cpu: float


def turns(rounds: int) -> Iterator[tuple[int, str]]:
    """(round, whose turn), four turns a round.

    >>> [side[0] for _, side in turns(2)]
    ['o', 'p', 'p', 'o', 'p', 'o', 'o', 'p']
    """
    for number in range(rounds):
        first, second = (OURS, PEER) if number % 2 == 0 else (PEER, OURS)
        for side in (first, second, second, first):
            yield number, side


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    steps: int,
    meet: Callable[[], None] = lambda: None,
) -> list[Block]:
    """Time `steps` calls of a side a turn; `meet` stands before each turn, untimed."""
    blocks = []
    for number, side in turns(rounds):
        meet()
        begin, spent = time.perf_counter(), time.process_time()
        for _ in range(steps):
            sides[side]()
        seconds, spent = time.perf_counter() - begin, time.process_time() - spent
        blocks.append(Block(number, side, steps, seconds, spent))
    return blocks


def merged(by_rank: Sequence[Sequence[Block]]) -> list[Block]:
    """The blocks of several ranks as one: a turn is over when its last rank is; `cpu` adds up."""
    return [
        replace(b[0], seconds=max(x.seconds for x in b), cpu=math.fsum(x.cpu for x in b))
        for b in zip(*by_rank, strict=True)
    ]


def a_step(blocks: Sequence[Block], side: str, what: str = "seconds") -> list[float]:
    """`seconds` or `cpu` a step of one side, a number a round."""
    rounds: dict[int, list[Block]] = {}
    for block in blocks:
        if block.side == side:
            rounds.setdefault(block.round, []).append(block)
    return [
        math.fsum(getattr(b, what) for b in turns) / sum(b.steps for b in turns)
        for turns in rounds.values()
    ]

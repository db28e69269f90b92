"""What ZeRO cuts into shards: blocks of neighbouring units, each padded until it divides.

stage 1      a bucket is a block: summed and gathered as one message
stages 2, 3  a unit is a block: reduced, gathered and freed by itself

3 ranks, a block of 7 elements     [ 0 1 2 | 3 4 5 | 6 . . ]     shard size 3, two of padding
"""

from __future__ import annotations

from dataclasses import dataclass

from parallel_core.data.bucketed import buckets
from parallel_core.params import pieces
from parallel_core.plan import Plan


@dataclass(frozen=True)
class Block:
    """Units that are sharded together, in backward order; elements without and with padding."""

    units: tuple[int, ...]
    numel: int
    padded: int
    ranks: int

    @property
    def shard(self) -> int:
        """Elements that each rank of the group owns."""
        return self.padded // self.ranks


def blocks(plan: Plan) -> tuple[Block, ...]:
    """The blocks of a plan in backward order."""
    every, n = pieces(plan), plan.shards
    runs = buckets(plan) if plan.zero == 1 else [(u,) for u in reversed(range(len(every)))]
    made = []
    for run in runs:
        numel = sum(every[u].numel for u in run)
        made.append(Block(tuple(run), numel, -(-numel // n) * n, n))
    return tuple(made)


def block_of(plan: Plan, u: int) -> int:
    """The number of the block that unit u lies in."""
    return next(b for b, block in enumerate(blocks(plan)) if u in block.units)

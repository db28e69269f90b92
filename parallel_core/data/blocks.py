"""What ZeRO cuts into shards: blocks of neighbouring units, each padded until it divides.

stage 1      a bucket is a block: summed and gathered as one message
stages 2, 3  a unit is a block: reduced, gathered and freed by itself
pipelines    a tied table is a block, cut alike at both ends

3 ranks, a block of 7 elements     [ 0 1 2 | 3 4 5 | 6 . . ]     shard size 3, two of padding
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from parallel_core.data.bucketed import buckets
from parallel_core.pieces import (
    TABLE,
    held_pieces,
    parts_table,
    pieces,
    stage_sums,
    uses_table,
    weights_of,
)
from parallel_core.plan import Plan


@dataclass(frozen=True)
class Block:
    """Units that are sharded together, in backward order; elements without and with padding; over
    how many ranks, along which axis, and over which other groups of them ("" where there is one)
    their shards are summed."""

    units: tuple[int, ...]
    numel: int
    padded: int
    ranks: int
    axis: str = "dp"
    replicas: str = ""

    @property
    def shard(self) -> int:
        """Elements that each rank of the group owns."""
        return self.padded // self.ranks


@lru_cache(maxsize=256)
def blocks(plan: Plan) -> tuple[Block, ...]:
    """The blocks of a plan in backward order, of all its stages."""
    every = pieces(plan)
    if plan.zero > 1:
        runs = _piece_by_piece(plan)
    elif plan.pp > 1:
        stages = reversed(range(every[-1].stage + 1))
        runs = [together[::-1] for s in stages for _, _, together in stage_sums(plan, s)]
    else:
        runs = [*buckets(plan)]
    runs = [run for run in runs if any(weights_of(plan, u) for u in run)]
    if parts_table(plan):
        runs.append((TABLE,))
    return tuple(_block(plan, tuple(run)) for run in runs)


def _piece_by_piece(plan: Plan) -> list[tuple[int, ...]]:
    """Every piece by itself; one without parameters goes with the dense one before it, whose
    backward comes after its own."""
    runs: list[tuple[int, ...]] = []
    every, empty = pieces(plan), tuple[int, ...]()
    for u in reversed(range(len(every))):
        if not weights_of(plan, u):
            empty = (u,)
        elif every[u].holds_experts:
            runs.append((u,))
        else:
            runs.append((*empty, u))
            empty = ()
    return runs


def _block(plan: Plan, run: tuple[int, ...]) -> Block:
    numel = sum(spec.numel for u in run for spec in weights_of(plan, u))
    hybrid, axis = plan.shard_axis == "shard", plan.shard_axis
    if run[0] != TABLE and pieces(plan)[run[0]].holds_experts:
        axis = "expert_shard" if hybrid else "edp"
    n, replicas = plan.mesh.degree(axis), "replica" if hybrid else ""
    return Block(run, numel, -(-numel // n) * n, n, axis, replicas)


def held_blocks(plan: Plan, rank: int) -> tuple[int, ...]:
    """The numbers of the blocks of which a rank has a shard."""
    held = set(held_pieces(plan, rank))
    if any(uses_table(plan, u) for u in held):
        held.add(TABLE)
    return tuple(b for b, block in enumerate(blocks(plan)) if held & set(block.units))


def parts_of_shard(plan: Plan, b: int, place: int, axis: str) -> list[tuple[int, int]]:
    """The runs of shard number `place` of block b, from its start, that hold parameters whose
    gradients are parts of a sum over a model axis."""
    block, runs, at = blocks(plan)[b], [], 0
    start, stop = place * block.shard, (place + 1) * block.shard
    for spec in (spec for u in block.units for spec in weights_of(plan, u)):
        low, high = max(at, start), min(at + spec.numel, stop)
        at += spec.numel
        if axis in spec.partial and low < high:
            runs.append((low - start, high - start))
    return runs


def block_of(plan: Plan, u: int) -> int:
    """The number of the block that unit u lies in."""
    return next(b for b, block in enumerate(blocks(plan)) if u in block.units)

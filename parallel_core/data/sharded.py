"""What the three ZeRO stages share: the sums of gradients in shards, and the end of the step.

    reduce_scatter   grad[N]+ax -> gshard[N/ax]     each rank gets the sum of its own shard
    all_gather       nws[N/ax] -> new[N]

Under HSDP the shards of a group are summed over the replicas as well, once a step. Rajbhandari et
al. 2019, ZeRO, arXiv:1910.02054; HSDP: Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277, 3.2.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from parallel_core import values as v
from parallel_core.data import step
from parallel_core.data.blocks import block_of, blocks
from parallel_core.pieces import EXPERTS, TABLE, pieces
from parallel_core.pipeline.lower import stage_name
from parallel_core.plan import Plan
from parallel_core.program import Instr, Lane, Message, Op, Program, Value

TABLE_NAME = "table"
"""`where` of what is done to a tied embedding's table by itself."""


def scatter(plan: Plan, b: int, mb: int, *, before: int | None) -> list[Instr]:
    """Sum block b of microbatch mb over the group, each rank its shard; add it to what there is
    since microbatch `before`."""
    block = blocks(plan)[b]
    mine = tuple(v.grad(u, mb) for u in block.units)
    sums = tuple(v.grad_shard(u, mb) for u in block.units)
    fresh = sums if before is None else tuple(v.grad_part(u, mb) for u in block.units)
    out = [
        Instr(
            op=Op.REDUCE_SCATTER,
            where=block_name(plan, b),
            mb=mb,
            lane=Lane.COMM,
            axis=block.axis,
            reads=mine,
            writes=fresh,
            frees=mine,
            inner=(Message(Op.REDUCE_SCATTER, block.axis, v.block(b)),),
        )
    ]
    if before is not None:
        both = (*(v.grad_shard(u, before) for u in block.units), *fresh)
        name = block_name(plan, b)
        out.append(
            Instr(op=Op.ADD, where=name, mb=mb, lane=Lane.COMM, reads=both, writes=sums, frees=both)
        )
    return out


def over_replicas(plan: Plan, b: int, mb: int) -> list[Instr]:
    """Sum the shards of block b over the groups (HSDP); nothing where there is one group."""
    block = blocks(plan)[b]
    if not block.replicas:
        return []
    mine = tuple(v.grad_shard(u, mb) for u in block.units)
    return [
        Instr(
            op=Op.ALL_REDUCE,
            where=block_name(plan, b),
            lane=Lane.COMM,
            axis=block.replicas,
            reads=mine,
            writes=tuple(v.gsum(u) for u in block.units),
            frees=mine,
        )
    ]


def summed(plan: Plan, u: int) -> Value:
    """The complete shard of u's gradient."""
    replicas = blocks(plan)[block_of(plan, u)].replicas
    return v.gsum(u) if replicas else v.grad_shard(u, plan.microbatches - 1)


def block_name(plan: Plan, b: int) -> str:
    """How instructions name block b: the bucket's number, the stage's name, or the unit's."""
    if plan.zero == 1 and plan.pp == 1:
        return f"bucket{b}"
    last = blocks(plan)[b].units[-1]
    if last == TABLE:
        return TABLE_NAME
    piece = pieces(plan)[last]
    if plan.zero > 1:
        return piece.name
    return stage_name(piece.stage) + (EXPERTS if piece.holds_experts else "")


def ending(plan: Plan) -> Iterator[Instr]:
    """Wait for every sum; the norm over all shards; the update of the rank's own shards.

    With clipping the update waits for the norm of all ranks, otherwise nobody does.
    """
    shape = step.Shape.of(plan)
    every = range(len(shape.units))
    for b, block in enumerate(blocks(plan)):
        reads = tuple(summed(plan, u) for u in block.units)
        yield Instr(op=Op.WAIT, where=block_name(plan, b), reads=reads)
    gradients = tuple(summed(plan, u) for u in every)
    yield from step.tally((*gradients, v.TOTAL_LOSS), (v.TOTAL_LOSS,), plan.tally_axis)
    old = tuple((v.shard if plan.zero == 3 else v.weight)(u) for u in every)
    yield Instr(
        op=Op.O,
        where="weights",
        reads=(*old, *gradients, *([v.TOTAL] if plan.clip else [])),
        writes=tuple(map(v.new_shard, every)),
        frees=(*old, *gradients),
    )


def gather_all(plan: Plan) -> Iterator[Instr]:
    """Every rank gets the weights that the others updated, block by block."""
    yield from gather(plan, range(len(blocks(plan))))


def gather(plan: Plan, held: Iterable[int]) -> Iterator[Instr]:
    """The same of some blocks."""
    for b in held:
        block = blocks(plan)[b]
        mine = tuple(map(v.new_shard, block.units))
        yield Instr(
            op=Op.ALL_GATHER,
            where=block_name(plan, b),
            lane=Lane.COMM,
            axis=block.axis,
            reads=mine,
            writes=tuple(map(v.updated, block.units)),
            frees=mine,
        )


def replicate(plan: Plan, instrs: list[Instr]) -> Program:
    """The program in which every rank runs the same instructions."""
    shape, n = step.Shape.of(plan), plan.world_size
    every = range(len(shape.units))
    tokens = [v.ids(mb) for mb in range(shape.microbatches)]
    sharded = plan.zero == 3
    holds = (*tokens, *map(v.shard if sharded else v.weight, every))
    keeps = (*tokens, *map(v.new_shard if sharded else v.updated, every), v.TOTAL)
    name = f"zero{plan.zero} m={plan.microbatches}"
    return Program(plan.mesh, (tuple(instrs),) * n, (holds,) * n, (keeps,) * n, name)

"""A collective on integers that somebody chose: what comes out, and every addition on the way.

Each rank has a list as long as the whole buffer. An op takes from it the chunks that it holds at
the start: a broadcast all of the root's, an all-gather chunk r of rank r's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.collectives import build
from parallel_core.collectives.group import AXIS, Group
from parallel_core.collectives.live import Draw, difference, digest, error
from parallel_core.collectives.names import chunk_sizes, chunks, value_sizes
from parallel_core.collectives.peer import peer
from parallel_core.collectives.ports import Ports
from parallel_core.collectives.promise import promise
from parallel_core.comm import Comm
from parallel_core.lanes import Kernel, Lanes
from parallel_core.program import Instr, Op, Value
from parallel_core.rank import Rank

TARGET = "parallel_core.collectives.integers:run"


def run(rank: Rank, *, what: Mapping[str, Any], integers: list[list[int]]) -> dict[str, Any]:
    """One run on `integers`, a list a rank; what live.run returns, and the numbers themselves.

    `inputs` and `outputs` are lists by value; `sums` has, of each addition in the order it was
    made, the step, the chunk's new name, the operands and the result.
    """
    op, here = what["op"], Group(**what["group"])
    program = build(op, what["algorithm"], here)
    elements, count = len(integers[0]), chunks(program)
    word, size = promise(op, here, count), value_sizes(program, elements)
    draw = _from(integers, chunk_sizes(elements, count))
    rank.init()
    comm = Comm(here.mesh, rank.rank)
    mine = {value: draw(rank.rank, value) for value in program.holds[rank.rank]}
    ports = Ports(comm, mine, list(word.ends[rank.rank]), size, torch.int64)
    sums: list[dict[str, Any]] = []
    rank.describe([instr.label for instr in program.ranks[rank.rank]])
    lanes = Lanes(
        program.ranks[rank.rank],
        {**ports.table(), Op.ADD: _told(ports.add, sums)},
        beat=rank.beat,
    )
    try:
        dist.barrier()
        start = time.perf_counter()
        outputs = ports.outputs(lanes.run(0, ports.inputs))
        seconds = time.perf_counter() - start
    finally:
        lanes.close()
    rank.emit({"event": "notes", "rank": rank.rank, "notes": lanes.notes})
    sizes, like = chunk_sizes(elements, count), torch.empty(0, dtype=torch.int64)
    theirs = peer(op, here, rank.rank, mine, sizes=sizes, like=like)
    if theirs:
        theirs.prepare()
        theirs.call()
    return {
        "counts": [[axis, name, *both] for (axis, name), both in comm.counts().items()],
        "seconds": {"ours": [seconds]},
        "error": error(outputs, word, rank.rank, draw),
        "error_to_torch": difference(outputs, theirs.outputs()) if theirs else None,
        "digest": {str(value): digest(tensor) for value, tensor in outputs.items()},
        "axis": AXIS,
        "inputs": _lists(mine),
        "outputs": _lists(outputs),
        "sums": sums,
    }


def _from(integers: Sequence[Sequence[int]], sizes: Sequence[int]) -> Draw:
    """A value's first index is its chunk: that part of its rank's list."""
    starts = [sum(sizes[:c]) for c in range(len(sizes))]

    def draw(rank: int, value: Value) -> Tensor:
        c = value.at[0]
        return torch.tensor(integers[rank][starts[c] : starts[c] + sizes[c]], dtype=torch.int64)

    return draw


def _lists(tensors: Mapping[Value, Tensor]) -> dict[str, list[int]]:
    return {str(value): tensor.tolist() for value, tensor in tensors.items()}


def _told(add: Kernel, sums: list[dict[str, Any]]) -> Kernel:
    """ADD that also writes down what it added; operands first, as it may reuse their memory."""

    def told(instr: Instr, reads: Mapping[Value, Any]) -> Sequence[Any]:
        columns = len(instr.writes)
        operands = [
            [reads[value].tolist() for value in instr.reads[c::columns]] for c in range(columns)
        ]
        results = add(instr, reads)
        for value, parts, result in zip(instr.writes, operands, results, strict=True):
            row = {"step": instr.where, "value": str(value), "operands": parts}
            sums.append({**row, "result": result.tolist()})
        return results

    return told

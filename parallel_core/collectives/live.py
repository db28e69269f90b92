"""A collective on real processes: run message by message, timed, and held against its promise.

Every rank draws every rank's input from the same counter-based numbers, so it can work out by
itself what it was promised: the sum of the terms that promise.py names. The same inputs then go
through torch.distributed's own call, as a second opinion and for the time it takes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.collectives import build
from parallel_core.collectives.group import AXIS, Group
from parallel_core.collectives.names import chunks, value_sizes
from parallel_core.collectives.peer import peer_call
from parallel_core.collectives.ports import Ports
from parallel_core.collectives.promise import Promise, promise
from parallel_core.comm import Comm
from parallel_core.lanes import Lanes
from parallel_core.program import Value
from parallel_core.rank import Rank
from parallel_core.rng import normal
from parallel_core.terms import Term


def run(
    rank: Rank,
    *,
    op: str,
    algorithm: str,
    group: Mapping[str, int],
    elements: int,
    dtype: str = "float32",
    repeats: int = 5,
) -> dict[str, Any]:
    """`repeats` runs of a collective over a buffer of `elements`; this rank's measurements.

    The first run warms up and is in the notes as step 0. Returns counts of messages, seconds per
    run (ours and torch's), whether the promise was kept (`error`, 0 for data that only moves), and
    a digest of the output, which must be equal on every rank that is promised the same.
    """
    here, kind = Group(**group), getattr(torch, dtype)
    program = build(op, algorithm, here)
    count = chunks(program)
    word = promise(op, here, count)
    size = value_sizes(program, elements)
    draw = inputs_of(size, kind)
    rank.init()
    comm = Comm(here.mesh, rank.rank)
    mine = {value: draw(rank.rank, value) for value in program.holds[rank.rank]}
    ports = Ports(comm, mine, list(word.ends[rank.rank]), size)
    instrs = program.ranks[rank.rank]
    rank.describe([instr.label for instr in instrs])
    lanes = Lanes(instrs, ports.table(), beat=rank.beat)
    theirs = peer_call(op, here, rank.rank, elements, draw)
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    try:
        for step in range(repeats):
            dist.barrier()
            start = time.perf_counter()
            outputs = ports.outputs(lanes.run(step, ports.inputs))
            seconds["ours"].append(time.perf_counter() - start)
            dist.barrier()
            start = time.perf_counter()
            told = theirs() if theirs else {}
            seconds["torch"].append(time.perf_counter() - start)
    finally:
        lanes.close()
    rank.emit({"event": "notes", "rank": rank.rank, "notes": lanes.notes})
    return {
        "counts": [[axis, name, *both] for (axis, name), both in comm.counts().items()],
        "seconds": seconds if theirs else {"ours": seconds["ours"]},
        "error": error(outputs, word, rank.rank, draw),
        "error_to_torch": difference(outputs, told) if told else None,
        "digest": {str(value): digest(tensor) for value, tensor in outputs.items()},
        "axis": AXIS,
    }


Draw = Callable[[int, Value], Tensor]
"""(rank, value held at the start) -> that input, [size]."""


def inputs_of(size: Callable[[Value], int], dtype: torch.dtype) -> Draw:
    """Inputs from counter-based normal numbers, so that any rank can draw any other's.

    Integer types get them rounded after a scaling by 10.
    """

    def draw(rank: int, value: Value) -> Tensor:
        index = torch.arange(size(value))
        numbers = normal(0, (value.name, rank, value.at[0]), index)
        return (numbers if dtype.is_floating_point else (numbers * 10).round()).to(dtype)

    return draw


def expected(terms: frozenset[Term], draw: Draw) -> Tensor:
    """The sum of the inputs that the promise names, in float64 (or int64)."""
    parts = [draw(rank, Value(name, (index,))) for name, rank, index in sorted(terms)]
    wide = torch.float64 if parts[0].dtype.is_floating_point else torch.int64
    return torch.stack([part.to(wide) for part in parts]).sum(0)


def error(outputs: Mapping[Value, Tensor], word: Promise, rank: int, draw: Draw) -> float:
    """The largest |output - promised| over this rank's outputs, relative to the largest promised."""
    worst = 0.0
    for value, terms in word.ends[rank].items():
        truth = expected(terms, draw)
        if truth.numel():
            scale = max(float(truth.abs().max()), 1e-300)
            worst = max(worst, float((outputs[value] - truth).abs().max()) / scale)
    return worst


def difference(ours: Mapping[Value, Tensor], theirs: Mapping[Value, Tensor]) -> float:
    """The largest |ours - torch's| over the values both have, relative to torch's largest."""
    worst = 0.0
    for value, tensor in theirs.items():
        if tensor.numel():
            scale = max(float(tensor.abs().max()), 1e-300)
            worst = max(worst, float((ours[value] - tensor).abs().max()) / scale)
    return worst


def digest(tensor: Tensor) -> str:
    """A short hash of the bytes of a tensor."""
    return hashlib.blake2b(
        bytes(tensor.contiguous().view(torch.uint8).numpy()), digest_size=8
    ).hexdigest()

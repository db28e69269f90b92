"""A collective on real processes: run message by message, timed, and held against its promise.

Every rank can draw every rank's input, each from a seed of its own, so it can work out by itself
what it was promised: the sum of the terms that promise.py names. The same inputs then go through
torch.distributed's own call, as a second opinion and for the time it takes.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.collectives import build
from parallel_core.collectives.group import AXIS, Group
from parallel_core.collectives.names import chunk_sizes, chunks, value_sizes
from parallel_core.collectives.peer import peer
from parallel_core.collectives.ports import Ports
from parallel_core.collectives.promise import Promise, promise
from parallel_core.comm import Comm
from parallel_core.lanes import Lanes
from parallel_core.program import Value
from parallel_core.rank import Rank
from parallel_core.terms import Term


def run(
    rank: Rank, *, what: Mapping[str, Any], elements: int, dtype: str = "float32", repeats: int = 5
) -> dict[str, Any]:
    """`repeats` runs of a collective over a buffer of `elements`; this rank's measurements.

    `what` has "op", "algorithm" and the fields of a Group under "group".

    The first run warms up and is in the notes as step 0. Returns counts of messages, seconds per
    run (ours and torch's), whether the promise was kept (`error`, 0 for data that only moves), and
    a digest of the output, which must be equal on every rank that is promised the same.
    """
    op, algorithm, here = what["op"], what["algorithm"], Group(**what["group"])
    kind = getattr(torch, dtype)
    program = build(op, algorithm, here)
    count = chunks(program)
    word = promise(op, here, count)
    size = value_sizes(program, elements)
    draw = inputs_of(size, kind)
    rank.init()
    comm = Comm(here.mesh, rank.rank)
    mine = {value: draw(rank.rank, value) for value in program.holds[rank.rank]}
    ports = Ports(comm, mine, list(word.ends[rank.rank]), size, kind)
    instrs = program.ranks[rank.rank]
    rank.describe([instr.label for instr in instrs])
    lanes = Lanes(instrs, ports.table(), beat=rank.beat)
    sizes = chunk_sizes(elements, count)
    theirs = peer(op, here, rank.rank, mine, sizes=sizes, like=torch.empty(0, dtype=kind))
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    try:
        for step in range(repeats):
            dist.barrier()
            start = time.perf_counter()
            outputs = ports.outputs(lanes.run(step, ports.inputs))
            seconds["ours"].append(time.perf_counter() - start)
            if theirs:
                theirs.prepare()
                dist.barrier()
                start = time.perf_counter()
                theirs.call()
                seconds["torch"].append(time.perf_counter() - start)
    finally:
        lanes.close()
    rank.emit({"event": "notes", "rank": rank.rank, "notes": lanes.notes})
    told = theirs.outputs() if theirs else {}
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
    """Inputs from normal numbers, each value's from its own seed: any rank can draw any other's.

    Integer types get their sizes, times 10 and rounded.
    """

    def draw(rank: int, value: Value) -> Tensor:
        seed = zlib.crc32(f"{value.name} {rank} {value.at[0]}".encode())
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        source = torch.Generator().manual_seed(seed)
        numbers = torch.randn(size(value), dtype=kind, generator=source)
        return (numbers if dtype.is_floating_point else (numbers * 10).abs().round()).to(dtype)

    return draw


def expected(terms: frozenset[Term], draw: Draw) -> Tensor:
    """The sum of the inputs that the promise names, float64; integers wrap as their type does."""
    (name, rank, index), *others = sorted(terms)
    first = draw(rank, Value(name, (index,)))
    total = first.to(torch.float64 if first.dtype.is_floating_point else torch.int64, copy=True)
    for name, rank, index in others:  # one at a time: they may be large
        total += draw(rank, Value(name, (index,)))
    return total if first.dtype.is_floating_point else total.to(first.dtype).double()


def error(outputs: Mapping[Value, Tensor], word: Promise, rank: int, draw: Draw) -> float:
    """The largest |output - promised| of this rank, relative to the largest promised."""
    worst = 0.0
    for value, terms in word.ends[rank].items():
        truth = expected(terms, draw)
        if truth.numel():
            scale = max(float(truth.abs().max()), 1e-300)
            worst = max(worst, float((outputs[value].double() - truth).abs().max()) / scale)
    return worst


def difference(ours: Mapping[Value, Tensor], theirs: Mapping[Value, Tensor]) -> float:
    """The largest |ours - torch's| over the values both have, relative to torch's largest."""
    worst = 0.0
    for value, tensor in theirs.items():
        if tensor.numel():
            scale = max(float(tensor.abs().max()), 1e-300)
            worst = max(worst, float((ours[value].double() - tensor.double()).abs().max()) / scale)
    return worst


def digest(tensor: Tensor) -> str:
    """A short hash of the bytes of a tensor."""
    raw = bytes(tensor.contiguous().view(torch.uint8).numpy())
    return hashlib.blake2b(raw, digest_size=8).hexdigest()

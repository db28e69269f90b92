"""A product cut over real ranks: its program run, every message counted, held against one process.

values    X[n,k], A[k,m] ... as layout.py writes them; a rank draws the whole and keeps its part
message   all of them through comm.py; rows travel as they are, columns turned round
truth     rank 0 multiplies the whole matrices alone, with torch's autograd for the way back
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from parallel_core.comm import Comm
from parallel_core.lanes import Kernel, Lanes
from parallel_core.loom.by_hand import integers
from parallel_core.loom.layout import AXIS, COLUMNS, Layout
from parallel_core.loom.request import LoomRequest
from parallel_core.loom.weave import Kind, Step
from parallel_core.program import Instr, Op, Value
from parallel_core.rank import Rank, choose_backend

DTYPES = {"integers": torch.float64, "normal": torch.float32}
AFTERWARDS = "the comparison with one process"
Reads = Mapping[Value, Any]


def run(rank: Rank, *, request: Mapping[str, Any]) -> dict[str, Any]:
    """`repeats` runs of a LoomRequest's program as one rank of it; the rank's measurements.

    The first run warms up; in it matrices are noted number by number (if they are small) and
    FLOPs are counted.
    """
    asked = LoomRequest(**request)
    backend = choose_backend(rank.local_size)
    rank.init(backend)
    device = torch.device("cpu")
    if backend.device == "cuda":
        device = torch.device("cuda", rank.local_rank % torch.cuda.device_count())
    program = asked.weave.program
    comm = Comm(program.mesh, rank.rank, staged=backend.staged)
    kernels = LoomKernels(asked, comm, device)
    instrs = program.ranks[rank.rank]
    rank.describe([*(instr.label for instr in instrs), AFTERWARDS])
    lanes = Lanes(instrs, kernels.table(), beat=rank.beat, sync=_sync(device))
    try:
        told, left = _repeat(asked, kernels, lanes)
    finally:
        lanes.close()
    rank.emit({"event": "notes", "rank": rank.rank, "notes": lanes.notes})
    rank.beat(asked.repeats, len(instrs))
    return told | {
        "counts": [[axis, name, *both] for (axis, name), both in comm.counts().items()],
        "bytes": {str(value): int(x.nbytes) for value, x in left.items()},
        "errors": kernels.errors({v: left[v] for v in asked.weave.outputs}),
        "backend": {"name": backend.name, "note": backend.note},
    }


def _repeat(
    asked: LoomRequest, kernels: LoomKernels, lanes: Lanes
) -> tuple[dict[str, Any], dict[Value, Any]]:
    """Seconds of every run; messages, FLOPs and numbers of the first; what the last one left."""
    holds = kernels.holds()
    kernels.noted = {} if asked.shown else None
    told: dict[str, Any] = {"seconds": []}
    left: dict[Value, Any] = {}
    for step in range(asked.repeats):
        dist.barrier()
        start = time.perf_counter()
        if step == 0:
            told["flops"], left = _counted(lambda: lanes.run(0, holds))
        else:
            left = dict(lanes.run(step, holds))  # the lanes empty their own when they close
        told["seconds"].append(time.perf_counter() - start)
        if step == 0:
            told["values"] = kernels.numbers(holds)
            told["log"] = [[sent.op, sent.bytes] for sent in kernels.comm.log]
            kernels.noted = None
    return told, left


class LoomKernels:
    """One rank's matrices and what the instructions do to them.

    `noted`, if it is a dict, takes a copy of every value as it is written.
    """

    def __init__(self, request: LoomRequest, comm: Comm, device: torch.device) -> None:
        self.request, self.weave, self.comm, self.device = request, request.weave, comm, device
        self.noted: dict[Value, Tensor] | None = None
        self._steps = {step.where: step for step in self.weave.steps}

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        computes = dict.fromkeys((Op.F, Op.I, Op.W), self.compute)
        moves = (Op.ALL_REDUCE, Op.REDUCE_SCATTER, Op.ALL_GATHER, Op.ALL_TO_ALL)
        return {**computes, **dict.fromkeys(moves, self.message)}

    def holds(self) -> dict[Value, Tensor]:
        """The rank's part of every value held at the start."""
        return {value: self.part(self.drawn(value), value) for value in self.weave.holds}

    def drawn(self, value: Value) -> Tensor:
        """The whole matrix, the same on every rank: small integers, or normal numbers."""
        asked, layout = self.request, self.weave.layouts[value]
        rows, columns = (asked.sizes[d] for d in layout.dims)
        kind = DTYPES[asked.numbers]
        if asked.numbers == "integers":
            whole = torch.tensor(integers(layout.name, rows, columns, asked.seed), dtype=kind)
            return whole.to(self.device)
        source = torch.Generator().manual_seed(zlib.crc32(f"{asked.seed} {layout.name}".encode()))
        numbers = torch.randn(rows, columns, generator=source, dtype=kind)
        if layout.name in ("W", "A", "B"):
            numbers /= rows**0.5  # so that what comes out is as large as what goes in
        return numbers.to(self.device)

    def part(self, whole: Tensor, value: Value) -> Tensor:
        """This rank's part of a matrix in the value's layout, in memory of its own."""
        return part_of(whole, self.weave.layouts[value], self.comm.rank, self.request.ranks)

    def compute(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """A product, the nonlinearity, its slope, or taking the own block."""
        step = self._steps[instr.where]
        first, *rest = (
            reads[v].T if t else reads[v]
            for v, t in zip(instr.reads, step.turned[: len(instr.reads)], strict=True)
        )
        return [self._note(step.writes, self._made(step, first, rest))]

    def _made(self, step: Step, first: Tensor, rest: Sequence[Tensor]) -> Tensor:
        if step.kind == Kind.PRODUCT:
            return first @ rest[0]
        if step.kind == Kind.TAKE:
            return self.part(first, step.writes)
        function, slope = ACTS[self.request.act]
        return function(first) if step.kind == Kind.ACT else first * slope(rest[0])

    def message(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """One message over tp; its payload, and what this rank has afterwards."""
        step, (source,) = self._steps[instr.where], instr.reads
        x, layouts = reads[source], self.weave.layouts
        size = int(x.nbytes)
        after = self._moved(instr, x, layouts[source], layouts[step.writes])
        return [size, self._note(step.writes, after)]

    def _moved(self, instr: Instr, x: Tensor, before: Layout, after: Layout) -> Tensor:
        name, n = instr.where, self.request.ranks
        if instr.op == Op.ALL_REDUCE:  # nobody else reads the parts: they are summed in place
            return self.comm.all_reduce(x.contiguous(), AXIS, name=name)
        if instr.op == Op.REDUCE_SCATTER:
            return self.comm.reduce_scatter(x.contiguous(), AXIS, name=name)
        if instr.op == Op.ALL_GATHER:
            by_columns = before.cut == COLUMNS
            shard = (x.T if by_columns else x).contiguous()
            whole = self.comm.all_gather(shard, AXIS, name=name)
            return whole.T.contiguous() if by_columns else whole
        if after.cut == COLUMNS:  # rows of all columns -> all rows of own columns
            blocks = torch.cat([block.contiguous() for block in x.chunk(n, 1)])
            even = [len(x)] * n
            return self.comm.all_to_all(blocks, AXIS, even, even)
        even = [len(x) // n] * n
        came = self.comm.all_to_all(x.contiguous(), AXIS, even, even)
        return torch.cat(came.chunk(n, 0), dim=1)

    def _note(self, value: Value, x: Tensor) -> Tensor:
        if self.noted is not None:
            self.noted[value] = x.clone()
        return x

    def numbers(self, holds: Mapping[Value, Tensor]) -> dict[str, Any] | None:
        """Every value of the run just noted, as lists; None where it was not noted."""
        if self.noted is None:
            return None
        return {str(value): x.tolist() for value, x in {**holds, **self.noted}.items()}

    def errors(self, outputs: Mapping[Value, Tensor]) -> dict[str, list[float]] | None:
        """On rank 0, by output: max |ranks - alone| over all ranks, and max |alone|."""
        if self.comm.rank:
            for tensor in outputs.values():
                self.comm.hand_over(tensor.contiguous(), 0)
            return None
        with torch.enable_grad():
            truth = self.alone()
        found = {}
        apart = {value: 0.0 for value in outputs}
        for rank in range(self.request.ranks):
            for value, tensor in outputs.items():
                theirs = tensor if rank == 0 else torch.empty_like(tensor)
                if rank:
                    self.comm.take_over(theirs, rank)
                layout = self.weave.layouts[value]
                right = part_of(truth[layout.name], layout, rank, self.request.ranks)
                error = float((theirs - right).abs().max())
                apart[value] = apart[value] if error <= apart[value] else error  # NaN counts
        for value, error in apart.items():
            name = self.weave.layouts[value].name
            found[name] = [error, float(truth[name].abs().max())]
        return found

    def alone(self) -> dict[str, Tensor]:
        """The whole product in one process: Y or Z by name, and its gradients."""
        layouts = self.weave.layouts
        whole = {layouts[v].name: self.drawn(v) for v in self.weave.holds}
        above = whole.pop("dY", whole.pop("dZ", None))
        if above is not None:
            whole = {name: x.requires_grad_() for name, x in whole.items()}
        if "W" in whole:
            name, out = "Y", whole["X"] @ whole["W"]
        else:
            inner = ACTS[self.request.act][0](whole["X"] @ whole["A"])
            name, out = "Z", inner @ whole["B"]
        truth = {name: out.detach()}
        if above is not None:
            grads = torch.autograd.grad(out, list(whole.values()), above)
            truth |= {f"d{one}": grad for one, grad in zip(whole, grads, strict=True)}
        return truth


def part_of(whole: Tensor, layout: Layout, rank: int, ranks: int) -> Tensor:
    """What one rank holds of a matrix in this layout."""
    if layout.cut is None:
        return whole
    return whole.chunk(ranks, layout.cut)[rank].clone(memory_format=torch.contiguous_format)


def _gelu_slope(x: Tensor) -> Tensor:
    density = torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5
    slope: Tensor = 0.5 * (1 + torch.erf(x / 2**0.5)) + x * density
    return slope


Function = Callable[[Tensor], Tensor]
ACTS: dict[str, tuple[Function, Function]] = {
    "relu": (torch.relu, lambda x: (x > 0).to(x.dtype)),
    "gelu": (functional.gelu, _gelu_slope),
}
"""As by_hand.ACTS, on tensors."""


def _counted(call: Callable[[], dict[Value, Any]]) -> tuple[int, dict[Value, Any]]:
    """FLOPs of the products that `call` makes on this thread, and what it returns."""
    with FlopCounterMode(display=False) as counter:
        left = dict(call())
    return int(counter.get_total_flops()), left


def _sync(device: torch.device) -> Callable[[], None]:
    if device.type != "cuda":
        return lambda: None
    stream = torch.cuda.current_stream(device)
    return lambda: stream.synchronize()

"""What is resident on a rank, measured: bytes of the tensors that exist, each storage once.

`state_bytes` sums what the training holds on purpose. `unaccounted` looks at every tensor alive
in the process and reports those that nobody owns up to: a leaked clone shows here.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from parallel_core import values as v
from parallel_core.activations.meter import Meter
from parallel_core.keeping import nobody
from parallel_core.kernels import TrainKernels, activation_shape
from parallel_core.pieces import TABLE
from parallel_core.program import Instr, Op, Value


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages under `tensors`."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def state_bytes(kernels: TrainKernels) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer state, from the storages under the model."""
    return {kind: storage_bytes(tensors) for kind, tensors in kernels.state().items()}


def unaccounted(kernels: TrainKernels, known: Iterable[Tensor] = ()) -> int:
    """Bytes of tensors of at least 1 KiB alive in this process that the training does not own."""
    owned = [tensor for tensors in kernels.state().values() for tensor in tensors]
    owned += [kernels.flat.params, kernels.flat.grads, *kernels.placeholders, *known]
    addresses = {t.untyped_storage().data_ptr() for t in owned}
    for _ in range(3):
        gc.collect()  # what only a cycle holds is nobody's
        found = storage_bytes(_strangers(addresses))
        if not found:
            break
        time.sleep(0.05)  # a collection that another thread is in the middle of
    return found


def _strangers(addresses: set[int]) -> Iterator[Tensor]:
    tensors = (o for o in gc.get_objects() if issubclass(type(o), Tensor))
    return (
        t for t in tensors if t.nbytes >= 1024 and t.untyped_storage().data_ptr() not in addresses
    )


def activations(kernels: TrainKernels) -> dict[str, int]:
    """Bytes each piece keeps for its backward, on live tensors: one forward, not trained on.

    Where tokens travel, a piece may keep what one before it keeps: that counts once.
    """
    micro, kept = kernels.load(0)[v.ids(0)], {}
    before: list[Tensor] = []
    seeded = torch.Generator().manual_seed(0)  # the same on all ranks; zeros would all go one way
    noise = torch.randn(activation_shape(kernels.plan), generator=seeded)
    reads: dict[Value, Any] = {}
    for u in sorted(u for u in kernels.flat.specs if u != TABLE):
        piece = kernels.pieces[u]
        if u and not (piece.joins or piece.holds_experts):
            reads[v.act(0, u - 1)] = noise.to(kernels.flat.params)
        with kernels.weights_of(u):
            data = [micro.ids, micro.labels, micro.place.positions]
            mine = [*kernels.model.parameters(), *kernels.model.buffers(), *data, *before]
            meter = Meter.ignoring(mine)
            kernels.keeper.look, kernels.keeper.over = meter.note, nobody
            saved, *out = kernels.forward(Instr(op=Op.F, where=piece.name, mb=0), reads)
        kept[piece.name] = meter.bytes
        del saved
        travels = piece.routes or piece.holds_experts
        reads = kernels.handed_on(u, out) if travels else {}
        before = [*before, *meter.alive] if travels else []
    kernels.keeper.look = None
    return kept


class _MallInfo2(ctypes.Structure):
    """glibc's struct mallinfo2: ten sizes, of which two say what is in use."""

    _fields_ = (
        ("before", ctypes.c_size_t * 4),
        ("hblkhd", ctypes.c_size_t),  # bytes in blocks of their own (large tensors)
        ("between", ctypes.c_size_t * 2),
        ("uordblks", ctypes.c_size_t),  # bytes in use inside arenas
        ("after", ctypes.c_size_t * 2),
    )


def live_bytes(device: torch.device) -> Callable[[], int]:
    """A reader of the bytes allocated now, since this call: the allocator's own count.

    glibc's mallinfo2 on the CPU (about 4 us a call; resident set size would show the allocator's
    caches instead), torch's caching allocator on CUDA; 0 where neither exists.
    """
    if device.type == "cuda":
        return lambda: torch.cuda.memory_allocated(device)
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return lambda: 0
    mallinfo2.restype = _MallInfo2

    def read() -> int:
        info = mallinfo2()
        return int(info.uordblks + info.hblkhd)

    start = read()
    return lambda: max(read() - start, 0)

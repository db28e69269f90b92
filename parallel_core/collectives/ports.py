"""What the messages of a collective do to real tensors: the kernels of SEND, RECV and ADD.

Inputs stay as they are. What a rank is promised lies in one output buffer, and a message that
brings it is received right there; everything else is scratch, which a later run uses again: fresh
memory costs a page fault every 4 KiB. All values of one message lie side by side, so that they can
be sent on as they are. A sum of two is made in the memory of the one that came (names.py says why
it may).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from parallel_core.comm import Comm
from parallel_core.lanes import Kernel
from parallel_core.program import Instr, Op, Value

Reads = Mapping[Value, Any]


class Ports:
    """One rank's buffers and kernels. `inputs` are the values held at the start, each [size];
    `promised` the values it must end with; `size` gives elements a value."""

    def __init__(
        self,
        comm: Comm,
        inputs: Mapping[Value, Tensor],
        promised: Sequence[Value],
        size: Callable[[Value], int],
        dtype: torch.dtype,
    ) -> None:
        self.comm, self.inputs, self._size = comm, dict(inputs), size
        self._like = torch.empty(0, dtype=dtype)  # a rank may hold no input to take it from
        self.output = self._like.new_empty(sum(size(value) for value in promised))
        sizes = [size(value) for value in promised]
        views = zip(promised, torch.split(self.output, sizes), strict=True)
        self._promised = dict(views)
        self._landings: dict[tuple[Value, ...], tuple[Tensor, ...]] = {}

    def table(self) -> dict[Op, Kernel]:
        """Op -> kernel."""
        return {Op.SEND: self.send, Op.RECV: self.receive, Op.ADD: self.add}

    def outputs(self, left: Mapping[Value, Any]) -> dict[Value, Tensor]:
        """The promised values, in the output buffer, from what a run left in its store."""
        for value, place in self._promised.items():
            if left[value].data_ptr() != place.data_ptr():
                place.copy_(left[value])  # an input that is an output too, or a joined message
        return self._promised

    def send(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Hand all values that are read to the peer, as one message."""
        assert instr.peer is not None
        payload = joined([reads[value] for value in instr.reads])
        self.comm.send(carried(payload), instr.peer, name=instr.where)
        return [payload.nbytes]

    def receive(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Take one message apart into the values that are written."""
        assert instr.peer is not None
        whole, *places = self._landing(instr.writes)
        self.comm.recv(carried(whole), instr.peer, name=instr.where)
        return [whole.nbytes, *places]

    def add(self, instr: Instr, reads: Reads) -> Sequence[Any]:
        """Operands stand in rows of as many chunks as are written; each column is added up."""
        columns = len(instr.writes)
        return [
            self._sum(instr.writes[c], list(instr.reads[c::columns]), reads) for c in range(columns)
        ]

    def _sum(self, target: Value, operands: list[Value], reads: Reads) -> Tensor:
        first, second, *rest = (reads[value] for value in operands)
        out = self._promised.get(target)
        if out is None:
            came = [reads[value] for value in operands if value.name == "got"]
            out = came[0] if came and not rest else torch.empty_like(first)
        torch.add(first, second, out=out)
        for more in rest:
            out.add_(more)
        return out

    def _landing(self, values: tuple[Value, ...]) -> tuple[Tensor, ...]:
        """Where a message is received, as one tensor and then value by value."""
        found = self._landings.get(values)
        if found is None:
            found = self._landings[values] = self._new_landing(values)
        return found

    def _new_landing(self, values: tuple[Value, ...]) -> tuple[Tensor, ...]:
        promised = [self._promised[value] for value in values if value in self._promised]
        if len(promised) == len(values) and adjacent(promised):
            return (joined(promised), *promised)
        sizes = [self._size(value) for value in values]
        whole = self._like.new_empty(sum(sizes))
        return (whole, *torch.split(whole, sizes))


UNKNOWN_TO_GLOO = (torch.int16,)
"""Element types that gloo neither carries nor adds."""


def carried(x: Tensor) -> Tensor:
    """The same memory in a type that gloo carries: bytes, where it does not know the type."""
    return x.view(torch.uint8) if x.dtype in UNKNOWN_TO_GLOO else x


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors as one: a view where they lie side by side in one storage, else a copy."""
    if len(tensors) == 1:
        return tensors[0]
    if not adjacent(tensors):
        return torch.cat(list(tensors))
    return tensors[0].as_strided((sum(len(t) for t in tensors),), (1,))


def adjacent(tensors: Sequence[Tensor]) -> bool:
    """Whether they lie side by side, in order, in one storage."""
    return all(
        a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        and a.storage_offset() + a.numel() == b.storage_offset()
        for a, b in pairwise(tensors)
    )

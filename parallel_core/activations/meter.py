"""What autograd really keeps: every tensor saved for backward, each storage counted once.

Weights are not activations and are left out; views share their storage and count once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Meter:
    """Storages kept since the meter was opened: address -> bytes."""

    ignored: frozenset[int]
    kept: dict[int, int] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)  # so that no address is used twice

    def note(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is known or ignored."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.ignored and storage.data_ptr() not in self.kept:
            self.kept[storage.data_ptr()] = storage.nbytes()
            self.alive.append(tensor.detach())

    @classmethod
    def ignoring(cls, tensors: Iterable[Tensor]) -> Meter:
        """A meter that does not count these: weights, say."""
        return cls(frozenset(t.untyped_storage().data_ptr() for t in tensors))

    @property
    def bytes(self) -> int:
        """Bytes kept in all."""
        return sum(self.kept.values())


@contextmanager
def metering(ignored: Iterable[Tensor]) -> Iterator[Meter]:
    """Counts what is saved for backward inside the block; `ignored` are the weights."""
    meter = Meter.ignoring(ignored)

    def pack(tensor: Tensor) -> Tensor:
        meter.note(tensor)
        return tensor.detach()  # returning the tensor itself would keep its whole graph alive

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield meter

"""What a forward saves for its backward, packed on the way in and unpacked on the way out.

Autograd hands every tensor that it saves to `Keeper.pack` and takes it back from `unpack`. Between
the two a tensor may be

    looked at   a meter counts its storage (meter.py, gauge.py)
    named       a gathered weight, or a view of one, held as its place in a block that is gathered
                again for the backward (ZeRO-3)
    shelved     held as a place in a storage, so that the storage may leave for the host and return
                (offload): all views of one storage travel once

Weights, token ids and positions belong to nobody's activations: they are neither counted nor moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Look = Callable[[Tensor], object]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a storage that comes and goes."""

    of: Any
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def taken(cls, tensor: Tensor, of: Any) -> Place:
        """The place of `tensor`; `of` says in what."""
        return cls(of, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    def within(self, whole: Tensor) -> Tensor:
        """The tensor again, in a storage of the same size and type."""
        return whole.as_strided(self.size, self.stride, self.offset)


@dataclass(eq=False)
class Parcel:
    """One storage, on the device or on the host."""

    flat: Tensor | None
    host: Tensor | None = None


@dataclass(eq=False)
class Shelf:
    """The storages that one forward saved. `leave` takes them to the host, `come_back` returns."""

    parcels: dict[int, Parcel] = field(default_factory=dict)

    def pack(self, tensor: Tensor) -> Place:
        """The tensor as a place in its parcel."""
        storage = tensor.untyped_storage()
        parcel = self.parcels.get(storage.data_ptr())
        if parcel is None:
            n = storage.nbytes() // tensor.element_size()
            flat = tensor.detach().new_empty(0).set_(storage, 0, (n,), (1,))
            parcel = self.parcels[storage.data_ptr()] = Parcel(flat)
        return Place.taken(tensor, parcel)

    def leave(self, look: Look) -> None:
        """Copy every storage to host memory and let go of it here; `look` sees the copies."""
        for parcel in self.parcels.values():
            assert parcel.flat is not None
            pinned = parcel.flat.is_cuda  # so that the copy needs no help of the processor
            parcel.host = torch.empty_like(parcel.flat, device="cpu", pin_memory=pinned)
            look(parcel.host.copy_(parcel.flat, non_blocking=True))
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        for parcel in self:
            parcel.flat = None

    def come_back(self, device: torch.device, look: Look) -> None:
        """Copy every storage back to the device; `look` sees them."""
        for parcel in self:
            assert parcel.host is not None
            parcel.flat = torch.empty_like(parcel.host, device=device)
            look(parcel.flat.copy_(parcel.host, non_blocking=True))
            parcel.host = None

    @property
    def nbytes(self) -> int:
        """Bytes of its storages, wherever they are."""
        found = [parcel.host if parcel.flat is None else parcel.flat for parcel in self]
        return sum(tensor.nbytes for tensor in found if tensor is not None)

    def __iter__(self) -> Iterator[Parcel]:
        return iter(self.parcels.values())


def nobody(*told: object) -> None:
    """Looks at nothing."""


class Keeper:
    """Packs what one rank's forwards save. `look` is told of it, `shelf` is where it goes."""

    def __init__(self) -> None:
        self.look: Look | None = None
        self.look_at_host: Look = nobody
        self.over: Callable[[], object] = nobody  # told when a forward is over
        self.over_again: Callable[[], object] = nobody  # when one that a backward runs again is
        self.leaving: Look = nobody  # told of what a message has brought and a backward drops
        self.shelf: Shelf | None = None
        self.wholes: dict[int, Tensor] = {}  # gathered blocks, by the unit they were gathered for
        self._others: set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether anybody wants to see or to move what is saved."""
        return self.look is not None or self.shelf is not None

    def look_at(self, tensor: Tensor) -> None:
        """Have the tensor looked at, if anybody does."""
        if self.look is not None:
            self.look(tensor)

    @contextmanager
    def keeping(self, others: Iterable[Tensor], *, again: bool = False) -> Iterator[None]:
        """Inside, what autograd saves goes through `pack`; `others` are no activations."""
        if not self.busy:
            yield
            return
        self.mind(others)
        with saved_tensors_hooks(self.pack, self.unpack):
            yield
        (self.over_again if again else self.over)()

    def mind(self, others: Iterable[Tensor]) -> None:
        """From now on these are no activations."""
        self._others = {tensor.untyped_storage().data_ptr() for tensor in others}

    def pack(self, tensor: Tensor) -> Tensor | Place:
        """What autograd holds in place of the tensor."""
        storage = tensor.untyped_storage().data_ptr()
        for u, whole in self.wholes.items():
            if whole.untyped_storage().data_ptr() == storage:
                return Place.taken(tensor, u)
        if self.busy and storage not in self._others:
            self.look_at(tensor)
            if self.shelf is not None:
                return self.shelf.pack(tensor)
        return tensor.detach()  # the tensor itself would keep its whole graph alive

    def unpack(self, packed: Tensor | Place) -> Tensor:
        """The tensor again."""
        if isinstance(packed, Tensor):
            return packed
        if isinstance(packed.of, int):
            return packed.within(self.wholes[packed.of])
        assert isinstance(packed.of, Parcel) and packed.of.flat is not None
        return packed.within(packed.of.flat)

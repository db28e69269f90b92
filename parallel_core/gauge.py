"""How many bytes exist now, measured: storages watched as they come and go.

`Alive` counts the bytes of watched storages by kind, whatever a plan says should exist. `Gauge`
writes them down after every instruction of a rank, for outline.py to lay its own beside.

gloo's threads let go of a message's tensors a moment after the message has ended. So a reading
waits for buffers that a kernel says are leaving, a few milliseconds at most: what is kept by
mistake is counted all the same.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from parallel_core.lanes import now
from parallel_core.program import Instr, Lane, Op

Row = tuple[int, ...]
"""step, index, t in nanoseconds, bytes of params, grads, optimizer, activations, host"""


PATIENCE = 20e-3
"""Seconds a reading waits for a buffer that should be gone."""


class Alive:
    """Buffers that come and go, watched through their storages: how many bytes exist now.

    `peak` is the most of each kind and of all together, looked for whenever a buffer is made.
    """

    def __init__(self) -> None:
        self._watched: list[tuple[str, Any, int]] = []
        self._lock = threading.Lock()  # lanes make buffers side by side
        self._said: dict[str, int] = {}
        self._leaving: dict[int, list[Any]] = {}  # by thread: lanes know of each other's nothing
        self._noticed: dict[int, Any] = {}  # address -> storage
        self.inside: list[tuple[int, dict[str, int]]] = []
        self.read = False  # by a Gauge
        self.peak: dict[str, int] = {}

    def watch(self, kind: str, tensor: Tensor) -> Tensor:
        """Count this tensor's storage for as long as anything holds it."""
        storage = tensor.untyped_storage()
        weakly: Callable[[Any], Any] = reductions.StorageWeakRef
        with self._lock:
            self._watched.append((kind, weakly(storage), storage.nbytes()))
            self._raise_peak()
        return tensor

    def notice(self, kind: str, tensor: Tensor) -> None:
        """The same of a tensor that may share its storage with one that is watched already; `look`
        is to be called when there are no more of them."""
        storage = tensor.untyped_storage()
        weakly: Callable[[Any], Any] = reductions.StorageWeakRef
        with self._lock:
            known = self._noticed.get(storage.data_ptr())
            if known is None or known.expired():
                self._noticed[storage.data_ptr()] = seen = weakly(storage)
                self._watched.append((kind, seen, storage.nbytes()))

    def look(self) -> None:
        """This moment may be the fullest; what is there inside an instruction is worth a row."""
        with self._lock:
            self.inside.append((now(), self._raise_peak()))

    def leaving(self, tensor: Tensor) -> None:
        """Whoever calls this drops the tensor in the instruction that now runs on its lane."""
        if self.read:
            weakly: Callable[[Any], Any] = reductions.StorageWeakRef
            mine = self._leaving.setdefault(threading.get_ident(), [])
            mine.append(weakly(tensor.untyped_storage()))

    def settle(self) -> None:
        """Wait until what is leaving on this lane has left, or patience is at its end."""
        going = self._leaving.pop(threading.get_ident(), None)
        until = time.perf_counter() + PATIENCE if going else 0.0
        for left in going or ():
            while not left.expired() and time.perf_counter() < until:
                time.sleep(20e-6)

    def say(self, kind: str, size: int) -> None:
        """These bytes of a kind exist from now on: counted elsewhere, since they seldom change."""
        with self._lock:
            self._said[kind] = size
            self._raise_peak()

    def bytes(self) -> dict[str, int]:
        """Bytes alive by kind."""
        with self._lock:
            return self._raise_peak()

    def _count(self) -> dict[str, int]:
        found = dict(self._said)
        self._watched = [w for w in self._watched if not w[1].expired()]
        for kind, _, size in self._watched:
            found[kind] = found.get(kind, 0) + size
        return found

    def _raise_peak(self) -> dict[str, int]:
        found = self._count()  # between two of these, bytes only fall
        here = sum(size for kind, size in found.items() if kind != "host")
        for kind, size in (*found.items(), ("total", here)):
            self.peak[kind] = max(self.peak.get(kind, 0), size)
        return found


class Gauge:
    """Reads `alive` after every instruction. `state` gives the optimizer's tensors, which only an
    update makes: it is asked at the start and after each of those."""

    def __init__(self, alive: Alive, state: Callable[[], Iterable[Tensor]]) -> None:
        self.alive, self._state = alive, state
        self.rows: list[Row] = []
        alive.read = True
        self._ask()

    def note(self, step: int, index: int, instr: Instr) -> None:
        """A lane has ended an instruction and dropped what it frees."""
        if instr.op == Op.O:
            self._ask()
        self.alive.settle()
        found = self.alive.bytes()
        if instr.lane == Lane.COMPUTE:
            inside, self.alive.inside = self.alive.inside, []
            self.rows += [(step, index, t, *_by_kind(then)) for t, then in inside]
        self.rows.append((step, index, now(), *_by_kind(found)))

    def _ask(self) -> None:
        storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in self._state())}
        self.alive.say("optimizer", sum(storages.values()))


def _by_kind(found: dict[str, int]) -> tuple[int, ...]:
    kinds = ("params", "grads", "optimizer", "activations", "host")
    return tuple(found.get(kind, 0) for kind in kinds)


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the tensors' storages, each once, in order: equal if they are equal to the bit."""
    found, seen = hashlib.sha256(), set()
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            raw = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            found.update(raw.cpu().numpy().data)
    return found.hexdigest()

"""Do all ranks of a group make the same calls? Each writes down its own and compares.

Nouns. A *register* is a file that the members of a group map: a row of slots a member. A *call* is
a line of text ("all_reduce float32[1024] bucket0"), numbered within its group. A member writes its
call into its row, then looks at the same number in every other row. Who comes first finds nothing
there yet, who comes later finds the difference, before a byte has moved.

    rank 0   1 all_reduce float32[64]    2 all_reduce float32[8]
    rank 1   1 all_reduce float32[64]    2 barrier                  <- rank 1 raises here

Without it a difference in size makes gloo abort the process, and two equal calls in another order
add up the wrong tensors in silence. A call costs a few stores into memory, no system call. Number
and fingerprint share one 64-bit word, which is stored in one piece; slots are used in turn, for no
member can be more than a call ahead of one who takes part in it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch.distributed as dist

SLOTS = 4
SLOT = 128  # bytes: a word, then the call as text
_WORD = 8
_FINGERPRINT = 40  # bits of the word; the number of the call has the others, and may go round
_NUMBERS = (1 << (8 * _WORD - _FINGERPRINT)) - 1


class CallMismatch(RuntimeError):
    """Two ranks of a group made different calls; the sentence names both ranks and both calls."""


class Register:
    """The calls of one group, seen by one of its members.

    `members` are the ranks, `rank` is this one. `what` and `verbs` are for the sentence: "call
    over dp", and what each member does ("calls", or "sends" and "receives").
    """

    def __init__(
        self, path: Path, members: Sequence[int], rank: int, *, what: str, verbs: Sequence[str]
    ) -> None:
        self.members, self.what, self.verbs = tuple(members), what, tuple(verbs)
        self._bytes = memoryview(_mapped(path, SLOTS * SLOT * len(self.members)))
        self._words = self._bytes.cast("Q")
        self._me = self.members.index(rank)
        own = [self._words[self._at(self._me, slot) // _WORD] for slot in range(SLOTS)]
        self._count = max(own) >> _FINGERPRINT  # one that comes after another goes on counting
        self._theirs = [
            [(i, self._at(i, slot) // _WORD) for i in range(len(self.members)) if i != self._me]
            for slot in range(SLOTS)
        ]

    def post(self, *call: Hashable) -> None:
        """Write down that this member now makes `call`; CallMismatch if another made another.

        The call is (op, dtype, shape, name), of which any may be None; all of it must agree.
        """
        fingerprint, text = _described(call)
        self._count += 1
        number = (self._count - 1) % _NUMBERS + 1  # never 0, which an empty slot has
        word = number << _FINGERPRINT | fingerprint
        slot = number % SLOTS
        mine = self._at(self._me, slot)
        self._bytes[mine + _WORD : mine + SLOT] = text
        self._words[mine // _WORD] = word
        fence()  # or both could look before either has written
        for member, at in self._theirs[slot]:
            other = self._words[at]
            if other != word and other >> _FINGERPRINT == number:
                raise self._mismatch(member, slot)

    def _at(self, member: int, slot: int) -> int:
        return (member * SLOTS + slot) * SLOT

    def _mismatch(self, other: int, slot: int) -> CallMismatch:
        says = []
        for member in sorted((self._me, other)):
            at = self._at(member, slot)
            call = bytes(self._bytes[at + _WORD : at + SLOT]).rstrip(b"\0").decode(errors="replace")
            says.append(f"rank {self.members[member]} {self.verbs[member]} {call}")
        return CallMismatch(
            f"{self.what}, number {self._count}, does not match: {', '.join(says)};"
            " all must make the same calls in the same order"
        )


@lru_cache(maxsize=4096)
def _described(call: tuple[Hashable, ...]) -> tuple[int, bytes]:
    """The fingerprint of a call, and its text as long as a slot has room for it."""
    op, dtype, shape, name = call
    tensor = "" if dtype is None else str(dtype).removeprefix("torch.")
    if isinstance(shape, tuple):
        tensor += f"[{','.join(map(str, shape))}]"
    text = " ".join(str(part) for part in (op, tensor, name) if part).encode()
    digest = hashlib.blake2b(text, digest_size=_FINGERPRINT // 8).digest()
    room = SLOT - _WORD
    return int.from_bytes(digest, "big"), text[:room].ljust(room, b"\0")


def _mapped(path: Path, size: int) -> mmap.mmap:
    """The file as memory that every member maps; who comes first makes it, full of zeros."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(handle, size)  # all ask for the same size
        return mmap.mmap(handle, size)
    finally:
        os.close(handle)


_LOCK = threading.Lock()


def fence() -> None:
    """Order the writes before it against the reads after it: taking a lock is a full fence."""
    with _LOCK:
        pass


def common_directory() -> Path | None:
    """The directory in which the ranks of torch's default group met, if it was one.

    Then all of them can share files there. None where they met through a port (torchrun).
    """
    world = dist.group.WORLD
    store: Any = world.get_group_store() if world else None
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    return Path(store.path).parent if hasattr(store, "path") else None  # a FileStore has a path

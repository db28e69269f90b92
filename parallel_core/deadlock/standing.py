"""The board on which ranks that meet strictly show where they stand: a row a rank, one file.

Every rank maps the file and writes its own row alone. A row begins with its version, odd while it
is being written: a reader that finds it odd, or changed when it has read, reads again. So a
snapshot of all rows that is the same twice was true at one moment: a rank that waits writes
nothing until it has been met.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from pathlib import Path

from parallel_core.analysis.wait_for import Stand, WaitFor
from parallel_core.calls import fence

ROW = 4096  # bytes: version, length, then the stand as JSON
_HEAD = 16


class Board:
    """Where each of `world_size` ranks stands; `path` is a file that all of them can map."""

    def __init__(self, path: Path, world_size: int) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, ROW * world_size)  # all ask for the same size
            self._bytes = memoryview(mmap.mmap(handle, ROW * world_size))
        finally:
            os.close(handle)
        self._words = self._bytes.cast("Q")
        self.world_size = world_size

    def write(self, stand: Stand) -> None:
        """Show where a rank stands; only that rank may call this."""
        text = json.dumps(stand.as_json()).encode()
        if len(text) > ROW - _HEAD:
            raise ValueError(f"rank {stand.rank} has more channels than its row holds: use fewer")
        start = ROW * stand.rank
        word = start // 8
        self._words[word] += 1
        fence()
        self._words[word + 1] = len(text)
        self._bytes[start + _HEAD : start + _HEAD + len(text)] = text
        fence()
        self._words[word] += 1

    def snapshot(self) -> tuple[WaitFor, tuple[int, ...]]:
        """Where all ranks stand, and the versions of their rows."""
        rows = [self._read(rank) for rank in range(self.world_size)]
        return WaitFor(tuple(stand for stand, _ in rows)), tuple(version for _, version in rows)

    def _read(self, rank: int) -> tuple[Stand, int]:
        start = ROW * rank
        word = start // 8
        while True:
            version = self._words[word]
            if version == 0:
                return Stand(rank=rank), 0  # not there yet: it may still come
            fence()
            length = self._words[word + 1]
            text = bytes(self._bytes[start + _HEAD : start + _HEAD + length])
            fence()
            if version % 2 == 0 and self._words[word] == version:
                return Stand.of(json.loads(text)), version
            time.sleep(0)  # its writer may need this core

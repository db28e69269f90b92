"""What the owner of a run, the supervisor and the ranks say to one another: lines through pipes.

    owner       -- Order, cancel --->  supervisor     JSON lines on its stdin
    supervisor  -- events --------->  owner          JSON lines on its stdout
    rank        -- Tag + JSON ----->  supervisor     one pipe a rank, so lines never mix

The supervisor forwards what a rank emits without reading it: a large trace costs it no parsing.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Tag(bytes, Enum):
    """The first byte of a rank's line: what the JSON behind it is."""

    EMIT = b"E"  # an event for the owner
    RESULT = b"R"  # what the target returned; the rank's last line
    FAILURE = b"X"  # the exception that ended the target; the rank's last line


@dataclass(frozen=True, kw_only=True)
class Order:
    """One run, as its owner asks for it.

    `target` is "module:function"; `path` holds entries for the ranks' sys.path; `dir` is the
    run's private directory. `stall_s` is how long a stopped rank is borne, `silence_s` how long
    nobody may move, both in seconds; `threads` is the intra-op threads of a rank.
    """

    run: str
    target: str
    world_size: int
    args: dict[str, Any]
    dir: str
    path: tuple[str, ...] = ()
    threads: int = 1
    stall_s: float = 5.0
    silence_s: float = 120.0

    def request(self) -> dict[str, Any]:
        """The JSON form the supervisor reads."""
        return {"do": "start", **asdict(self)}

    @classmethod
    def of(cls, request: dict[str, Any]) -> Order:
        """The order in a request."""
        fields = {name: value for name, value in request.items() if name != "do"}
        return cls(**{**fields, "path": tuple(fields["path"])})


class Lines:
    """Bytes as a pipe hands them over, given on as whole lines.

    >>> lines = Lines()
    >>> lines.feed(b"one"), lines.feed(b" line\\nand")
    ([], [b'one line'])
    """

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends."""
        *whole, rest = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._begun, whole[0]])
            self._begun = []
        if rest:
            self._begun.append(rest)
        return whole


def write_line(fd: int, data: bytes) -> None:
    """Write `data` and a line end to a pipe, all of it, waiting while the pipe is full."""
    left = memoryview(data + b"\n")
    while left:
        left = left[os.write(fd, left) :]


def to_bytes(thing: Any) -> bytes:
    """`thing` as one line of JSON (a line break inside a string is written as \\\\n)."""
    return json.dumps(thing, separators=(",", ":")).encode()

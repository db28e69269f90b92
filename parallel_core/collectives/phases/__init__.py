"""The parts that collectives are made of, each with its cost on paper; an all-reduce is two.

`n` ranks, `b[c]` the bytes of chunk c, `S` their sum. For every part: the bytes each rank sends and
receives, the messages of all ranks together, the steps (script.py), and the *path*: the messages
one after another that its time is made of, as (how many, which share of S) for chunks of one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from parallel_core.collectives.group import Group

Bytes = Callable[[Group, Sequence[int], int], int]
"""(group, bytes of each chunk, rank) -> bytes."""

Path = tuple[tuple[int, Fraction], ...]
"""(how many messages, share of S each), in any order."""


@dataclass(frozen=True)
class Phase:
    """One part's cost. `path` is None where no closed form is exact."""

    sent: Bytes
    received: Bytes
    messages: Callable[[Group], int]
    steps: Callable[[Group], int]
    path: Callable[[Group], Path | None]

    @property
    def turned(self) -> Phase:
        """The transpose: every arrow turned round, so what was sent is received."""
        return replace(self, sent=self.received, received=self.sent)


def one_size(count: int, share: Fraction | int) -> Path:
    """A path of `count` messages that each carry `share` of S."""
    return ((count, Fraction(share)),)

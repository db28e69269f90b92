"""What a rank's messages were: counted as they are handed over, timed from then to their end."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass

Counts = dict[tuple[str, str], tuple[int, int]]
"""(axis, op) -> messages, payload bytes"""


@dataclass(slots=True)
class Sent:
    """One message as it was handed over: op, axis, payload bytes; `control` marks scalars.

    `start` and `done` are nanoseconds of the machine's monotonic clock.
    """

    op: str
    axis: str
    bytes: int
    control: bool
    start: int = 0
    done: int = 0


class Booked:
    """The messages of one rank, whichever of its threads sends them."""

    def __init__(self) -> None:
        self.log: list[Sent] = []
        self._mine = threading.local()

    def begin(self, op: str, axis: str, size: int, *, control: bool) -> Sent:
        """A message of `size` payload bytes is handed over now."""
        sent = Sent(op, axis, size, control, time.perf_counter_ns())
        self.log.append(sent)
        self._mine.last = sent
        return sent

    def over(self, sent: Sent | None = None) -> None:
        """A message has ended: this one, or the last that this thread has begun."""
        sent = sent or getattr(self._mine, "last", None)
        if sent is not None and not sent.done:
            sent.done = time.perf_counter_ns()
            self._ended().append(sent)

    def since(self) -> list[Sent]:
        """What has ended on this thread since it last asked, in order of begin."""
        found = sorted(self._ended(), key=lambda sent: sent.start)
        self._mine.ended = []
        return found

    def _ended(self) -> list[Sent]:
        found: list[Sent] | None = getattr(self._mine, "ended", None)
        if found is None:
            found = self._mine.ended = []
        return found

    def counts(self, *, control: bool = False) -> Counts:
        """(axis, op) -> (messages, payload bytes), as the ledger wants them."""
        table: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for sent in self.log:
            if sent.control == control:
                count, total = table[sent.axis, sent.op]
                table[sent.axis, sent.op] = (count + 1, total + sent.bytes)
        return dict(table)

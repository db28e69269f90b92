"""Why a rank stands still: the vocabulary of every table, figure and hover, and the words.

    rank 1   | F0 | fill.... F1 |~~~~~~ late ~~~~~~|. queue .|= wire =|-own-| B0 | drain ...
    rank 2                      |    W1    |  B0   |send

`cause` says which part of the picture a slot is; analysis/lateness.py defines late, queue, wire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from parallel_core.program import Op
from parallel_core.quantities import time_text
from parallel_core.trace import Span


class Cause(StrEnum):
    """What a standstill is made of; each has its own hatch, fill and drain stay blank."""

    FILL = "fill"  # before the rank's first work of the step
    DRAIN = "drain"  # after its last
    LATE_SENDER = "late sender"  # the message it needs was not sent yet
    LATE_RECEIVER = "late receiver"  # its own send stands until the other end is posted
    LATE_PEER = "late peer"  # a member of a collective had not come
    LINK_BUSY = "link busy"  # the message stood behind others
    WIRE = "on the wire"
    STRAGGLER = "straggler"  # late, because its rank takes longer than the others for the same
    CHOICE = "own choice"  # what comes next needs nothing more: a WAIT, or the order, holds it
    OVERHEAD = "overhead"  # a delay of its own in a run: operating system, interpreter, runtime
    UNKNOWN = "nothing recorded"


LATE = frozenset({Cause.LATE_SENDER, Cause.LATE_RECEIVER, Cause.LATE_PEER})


def late_cause(waiting: Span) -> Cause:
    """Whose lateness it is when the end `waiting` of a message stands for the other ends."""
    kinds = {Op.SEND.value: Cause.LATE_RECEIVER, Op.RECV.value: Cause.LATE_SENDER}
    return kinds.get(waiting.op, Cause.LATE_PEER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A stretch in which a rank's compute lane stood still, and its one cause.

    `next` is the work it stood before, `message` the rank's own end of the message it needed,
    `blame` the rank that posted last, `awaited` what that rank had to compute first, `doing` what
    it mostly ran meanwhile (None: it stood still too). `root` is the rank at the end of the chain
    of those who wait for each other, `work` what that one ran, and `slow` how many times the
    ranks' median it takes for it (0: no straggler). `ready` is a later task of this rank that
    could have run; `ahead` says what the message queued for.
    `inside` says that the stretch lies between the rank's first and last task of the step.
    """

    rank: int
    step: int
    start: int
    end: int
    cause: Cause
    next: Span | None = None
    message: Span | None = None
    blame: int | None = None
    awaited: Span | None = None
    doing: Span | None = None
    root: int | None = None
    work: Span | None = None
    slow: float = 0.0
    ready: Span | None = None
    ahead: str = ""
    inside: bool = False

    @property
    def ns(self) -> int:
        """Nanoseconds it lasts."""
        return self.end - self.start

    @property
    def sentence(self) -> str:
        """The cause in words: "waits 3.10 ms for B stage2 mb4 from rank 2; rank 2 was in W ..."."""
        return self.told()

    def told(self, say: Callable[[float], str] = time_text) -> str:
        """The same, its nanoseconds as `say` writes them: `Units(beats=True).time` in beats."""
        text = self._why(say(self.ns))
        if self.ready is not None and self.cause != Cause.OVERHEAD:
            text += f"; {self.ready.label} was ready, the order runs it later"
        return text

    def _why(self, whole: str) -> str:
        task = "its next task" if self.next is None else self.next.label
        name = "a message" if self.message is None else self.message.label
        match self.cause:
            case Cause.FILL:
                return f"fills for {whole}: {self._before_first(task)}"
            case Cause.DRAIN:
                return f"drains for {whole}: its work of the step is done"
            case Cause.LINK_BUSY:
                return f"waits {whole}: {name} {self.ahead or 'queued behind other messages'}"
            case Cause.WIRE:
                return f"waits {whole} for {name}, on the wire"
            case Cause.CHOICE if self.message is not None:
                return f"stands {whole} by its own order: what follows does not need {name}"
            case Cause.CHOICE:
                return f"stands {whole} by its own order: all that {task} needs was there"
            case Cause.OVERHEAD:
                return f"begins {task} {whole} after all that it needs was there"
            case Cause.UNKNOWN:
                return f"stands {whole}; nothing recorded says why"
        return f"waits {whole} {self._whom(name)}"

    def _before_first(self, task: str) -> str:
        if self.blame is None:
            return f"{task} is the first it has to do"
        return f"{task} needs {self._product()} from rank {self.blame}"

    def _product(self) -> str:
        if self.awaited is not None:
            return self.awaited.label
        return "a message" if self.message is None else self.message.label

    def _whom(self, name: str) -> str:
        if self.message is not None and self.message.op == Op.SEND:
            return f"for rank {self.blame} to take {name}{self._meanwhile()}"
        if self.message is not None and self.message.op != Op.RECV:
            return f"for rank {self.blame} in {name}{self._meanwhile()}"
        return f"for {self._product()} from rank {self.blame}{self._meanwhile()}"

    def _meanwhile(self) -> str:
        """What the culprit did, as far as it is recorded."""
        slow = f" ({self.slow:g} times the median of the ranks)" if self.slow else ""
        if self.doing is not None:
            where = "still in it" if self.doing is self.awaited else f"in {self.doing.label}"
            return f"; rank {self.blame} was {where}{slow}"
        if self.root is None or self.root == self.blame:
            return ""
        last = f"which was in {self.work.label}{slow}" if self.work else "which stood still"
        return f"; rank {self.blame} waited itself, in the end for rank {self.root}, {last}"

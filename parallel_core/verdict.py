"""Why a run ended early: which rank was first at fault, and the one sentence that says so.

When one rank dies its peers fail too, a few milliseconds later, with "connection reset". So
failures are sorted by how sure it is that they are a cause and not the echo of one:

    OWN      a signal, an exit code, an exception of the target's own
    ABORT    SIGABRT: a mismatched message, or a library that gives up because a peer is gone
    ECHO     an exception that speaks of a lost connection
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from parallel_core.heartbeat import Place

_LOST = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|socket closed|timed out waiting"
    r"|remote process exited|ncclRemoteError|ncclSystemError|DistNetworkError",
    re.IGNORECASE,
)


class Certainty(IntEnum):
    """How sure it is that a failure is a cause; the lowest one is named."""

    OWN = 0
    ABORT = 1
    ECHO = 2


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What happened to one rank: `rank R <what> <where><after>`; `detail` is for a closer look."""

    rank: int
    what: str
    after: str = ""
    detail: str = ""
    certainty: Certainty = Certainty.OWN

    def sentence(self, where: str, world_size: int) -> str:
        """The one sentence: which rank, where it stood, what happened."""
        others = world_size - 1
        rest = f"; the other {others} ranks were stopped" if others > 1 else ""
        rest = "; the other rank was stopped" if others == 1 else rest
        return f"rank {self.rank} {self.what} {where}{self.after}{rest}"


def speaks_of_lost_connection(text: str) -> bool:
    """Whether an exception's text is what peers of a dead rank see."""
    return _LOST.search(text) is not None


def of_exception(rank: int, told: dict[str, str]) -> Failure:
    """The failure of a rank whose target raised: `told` holds error, detail and chain."""
    echo = speaks_of_lost_connection(told["chain"])
    return Failure(
        rank=rank,
        what="failed",
        after=f": {first_line(told['error'])}",
        detail=told["detail"],
        certainty=Certainty.ECHO if echo else Certainty.OWN,
    )


def of_exit(rank: int, code: int, log: str) -> Failure:
    """The failure of a rank whose process ended with no result; `code` < 0 is a signal."""
    if code >= 0:
        return Failure(rank=rank, what=f"ended with exit code {code}", detail=log)
    if -code != signal.SIGABRT:
        return Failure(rank=rank, what=f"was killed by {_signal(-code)}", detail=log)
    # gloo throws in C++ where messages do not match in size: its reason is in the log alone
    reason = re.search(r"what\(\):\s*(.+)", log)
    after = f": {first_line(reason[1])}" if reason else ""
    return Failure(
        rank=rank,
        what="was killed by SIGABRT",
        after=after,
        detail=log,
        certainty=Certainty.ABORT,
    )


def of_stall(rank: int, seconds: float, state: str) -> Failure:
    """The failure of a rank that no longer ticks; `state` is the kernel's word for its process."""
    return Failure(
        rank=rank,
        what=f"stopped responding for {seconds:.1f} s",
        after=f" (process is {state})",
    )


def of_silence(seconds: float, places: dict[int, str], behind: int) -> str:
    """The sentence for a run in which every rank lives and none moves: who waits where."""
    waits = "; ".join(f"rank {r} waits {where}" for r, where in places.items() if r != behind)
    lag = f"rank {behind} is furthest behind, {places[behind]}"
    return f"no rank moved for {seconds:.1f} s: {lag}" + (f"; {waits}" if waits else "")


def where(place: Place, labels: Path) -> str:
    """`in step 7 at all_reduce bucket1`; the words are those the rank wrote to `labels`."""
    step, index = place
    if step < 0:
        return "before its first step"
    try:
        words = json.loads(labels.read_text())[index]
    except (OSError, ValueError, IndexError):
        words = f"instruction {index}"
    return f"in step {step} at {words}"


def first_line(text: str, limit: int = 300) -> str:
    """The first line of `text`, shortened: what fits in a sentence."""
    line = text.strip().split("\n", 1)[0].strip()
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

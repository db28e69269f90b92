"""The ranks of one run, as the supervisor holds them: fork, listen, judge, end.

    RUNNING ----- a rank failed -----> DOUBT ---- the cause is sure, or 0.5 s are over --.
       |                                                                                 v
       |-- cancel ----> CANCELLING ---- all gone, or 0.25 s are over ----------------> ENDED
       '-- every result is in, a rank stalls, or nobody moves --------------------------^

There is one way into ENDED: kill the process group (SIGKILL works on a stopped process too), reap
every process, close every pipe, tell the owner. So nothing of a run outlives its last event.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

import psutil

from parallel_core import verdict
from parallel_core.channel import Lines, Order, Tag
from parallel_core.heartbeat import Board, Watch
from parallel_core.verdict import Failure
from parallel_core.worker import log_path, work

DOUBT_S = 0.5  # peers of a dead rank raise within 35 ms; the kernel reports the death as soon
GRACE_S = 0.25  # for ranks that look at cancelled()
BUSY = 6  # a rank that is not stopped but does not tick (one long C call) is borne so much longer
_PIPE = 1 << 20

Tell = Callable[..., None]


class State(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    DOUBT = "doubt"
    CANCELLING = "cancelling"
    ENDED = "ended"


@dataclass
class Member:
    """One worker process: its pipe (None once it closed), its exit code, what it handed in."""

    rank: int
    pid: int
    pipe: int | None
    lines: Lines = field(default_factory=Lines)
    code: int | None = None
    result: bytes | None = None


class Crew:
    """The worker processes of one order."""

    def __init__(self, order: Order, tell: Tell) -> None:
        self.order, self.state = order, State.RUNNING
        self._tell = tell
        self._board = Board(order.world_size)
        self._watch = Watch(self._board, time.monotonic())
        self._members: list[Member] = []
        self._failures: list[Failure] = []
        self._deadline = 0.0

    # -- start ---------------------------------------------------------------------------------

    def fork(self, lifeline: int, foreign: Iterable[int]) -> None:
        """Fork every rank; `foreign` are the supervisor's pipes, which a worker must not keep."""
        foreign = list(foreign)
        for rank in range(self.order.world_size):
            ours, theirs = os.pipe()
            pid = os.fork()
            if pid == 0:
                self._be_rank(rank, theirs, lifeline, (*foreign, *self.pipes, ours))
            os.close(theirs)
            self._members.append(Member(rank, pid, ours))
            with contextlib.suppress(OSError):  # the child may have done it, or be gone
                os.setpgid(pid, self._members[0].pid)

    def _be_rank(self, rank: int, channel: int, lifeline: int, foreign: Iterable[int]) -> NoReturn:
        """In the child: never return into the supervisor's loop, whatever happens."""
        try:
            for fd in foreign:
                os.close(fd)
            os.setpgid(0, self._members[0].pid if self._members else 0)
            row = self._board.row(rank)
            work(self.order, rank, row=row, lifeline=lifeline, channel=channel)
        finally:
            os._exit(os.EX_SOFTWARE)

    # -- listen --------------------------------------------------------------------------------

    @property
    def pipes(self) -> list[int]:
        """The pipes on which the ranks may still speak."""
        return [m.pipe for m in self._members if m.pipe is not None]

    def listen(self, ready: Iterable[int]) -> None:
        """Take what the ranks wrote to those of their pipes that are `ready`."""
        waiting = set(ready)
        for member in self._members:
            if member.pipe in waiting:
                self._read(member, member.pipe)

    def _read(self, member: Member, pipe: int) -> None:
        chunk = os.read(pipe, _PIPE)
        for line in member.lines.feed(chunk):
            self._hear(member, Tag(line[:1]), line[1:])
        if not chunk:
            os.close(pipe)
            member.pipe = None

    def _hear(self, member: Member, tag: Tag, said: bytes) -> None:
        match tag:
            case Tag.EMIT:
                self._watch.heard(time.monotonic())
                self._say("emit", rank=member.rank, data=said)
            case Tag.RESULT:
                member.result = said
            case Tag.FAILURE:
                self._failures.append(verdict.of_exception(member.rank, json.loads(said)))

    # -- judge ---------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ask the ranks to stop; `judge` kills them when the grace is over."""
        if self.state is not State.ENDED:
            self.state, self._deadline = State.CANCELLING, time.monotonic() + GRACE_S
            self._board.cancel()

    def judge(self, now: float) -> None:
        """One turn of the state machine; `now` in seconds of the monotonic clock."""
        self._collect_exits()
        if self.state is State.CANCELLING:
            if now >= self._deadline or not self.pipes:
                self._end("cancelled", message="the run was cancelled")
        elif self._failures or self._silently_gone():
            self._weigh(now)
        elif all(member.result is not None for member in self._members):
            results = [member.result for member in self._members]
            self._end("done", results=b"[" + b",".join(filter(None, results)) + b"]")
        else:
            self._look_for_a_hang(now)

    def forgive(self, now: float) -> None:
        """The supervisor was paused: count every rank's silence from `now`."""
        self._watch.forgive(now)

    def _collect_exits(self) -> None:
        for member in self._silently_gone():
            pid, status = os.waitpid(member.pid, os.WNOHANG)
            if pid:
                member.code = os.waitstatus_to_exitcode(status)
                if not any(failure.rank == member.rank for failure in self._failures):
                    log = self._log(member.rank)
                    self._failures.append(verdict.of_exit(member.rank, member.code, log))

    def _silently_gone(self) -> list[Member]:
        """Members whose pipe closed with no result and whose exit is not known yet."""
        return [m for m in self._members if m.pipe is None and m.code is None and m.result is None]

    def _weigh(self, now: float) -> None:
        if self.state is State.RUNNING:
            self.state, self._deadline = State.DOUBT, now + DOUBT_S
        first = min(self._failures, key=lambda failure: failure.certainty, default=None)
        if first and (first.certainty is verdict.Certainty.OWN or now >= self._deadline):
            self._fail(first)
        elif now >= self._deadline:
            rank = self._silently_gone()[0].rank
            self._fail(Failure(rank=rank, what="closed its line to the supervisor"))

    def _look_for_a_hang(self, now: float) -> None:
        self._watch.look(now)
        alive = [member.rank for member in self._members if member.result is None]
        for rank in self._watch.stillest(alive):
            still = self._watch.stillness(rank, now)
            if still < self.order.stall_s:
                break
            state = self._process_state(rank)
            others_tick = any(self._watch.stillness(r, now) < self.order.stall_s for r in alive)
            # a stopped process was stopped by somebody; one that is merely not scheduled, or sits
            # in a long C call, is blamed late, and only while others do get to run
            stopped = state == psutil.STATUS_STOPPED
            if stopped or (others_tick and still >= BUSY * self.order.stall_s):
                return self._fail(verdict.of_stall(rank, still, state))
        if self._watch.silence(now) >= self.order.silence_s:
            self._fail_silent(alive, self._watch.silence(now))

    def _process_state(self, rank: int) -> str:
        try:
            return str(psutil.Process(self._members[rank].pid).status())
        except psutil.Error:
            return "gone"

    # -- end -----------------------------------------------------------------------------------

    def _fail(self, failure: Failure) -> None:
        sentence = failure.sentence(self._where(failure.rank), self.order.world_size)
        self._end("failed", rank=failure.rank, message=sentence, detail=failure.detail)

    def _fail_silent(self, alive: list[int], seconds: float) -> None:
        behind = min(alive, key=self._board.place)
        places = {rank: self._where(rank) for rank in alive}
        message = verdict.of_silence(seconds, places, behind)
        self._end("failed", rank=behind, message=message, detail=self._log(behind))

    def _end(self, event: str, **fields: Any) -> None:
        self.kill()
        self._say(event, **fields)

    def kill(self) -> None:
        """Kill, reap and close all that is left of the run."""
        if self._members and self.state is not State.ENDED:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._members[0].pid, signal.SIGKILL)
        for member in self._members:
            if member.code is None:
                member.code = os.waitstatus_to_exitcode(os.waitpid(member.pid, 0)[1])
            if member.pipe is not None:
                os.close(member.pipe)
                member.pipe = None
        self.state = State.ENDED

    def _say(self, event: str, **fields: Any) -> None:
        self._tell(event=event, run=self.order.run, **fields)

    def _where(self, rank: int) -> str:
        labels = Path(self.order.dir) / f"labels-{rank}.json"
        return verdict.where(self._board.place(rank), labels)

    def _log(self, rank: int) -> str:
        try:
            return Path(log_path(self.order.dir, rank)).read_text(errors="replace")[-4000:]
        except OSError:
            return ""

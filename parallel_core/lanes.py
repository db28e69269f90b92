"""One rank's program run by its lanes, a thread each: compute on the caller's, messages beside it.

Nouns. The *store* holds the values that exist now. A lane takes its next instruction, stands until
everything that instruction reads is in the store, calls the op's kernel, puts what it wrote into
the store and drops what it frees. No lane knows another: they meet in the store alone, so the
order that runs is the program's, and overlap is what the program allows.

A kernel is `kernel(instr, reads: {Value: object}) -> objects for instr.writes, in order`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parallel_core.program import Instr, Lane, Op, Value
from parallel_core.recording import Note, Stamp

Kernel = Callable[[Instr, Mapping[Value, Any]], Sequence[Any]]
now = time.perf_counter_ns  # CLOCK_MONOTONIC: one clock for all processes of a machine
own_time = time.thread_time_ns  # this thread's CPU time, so that other lanes do not count


class LaneStopped(RuntimeError):
    """Another lane failed; its own error is the one to show."""


class Lanes:
    """Runs one rank's instructions, step after step, and notes what happened.

    `notes` holds a Note an instruction in the order they ended. `sync` waits for the device (CUDA
    kernels are asynchronous), `beat` shows the supervisor where the rank stands. `memory` reads
    the live bytes, after each kernel of the compute lane; other notes carry its last reading.
    `inside` gives the messages that the calling thread has sent and received since it last asked.
    `gauge`, if set, is told (step, index, instruction) when an instruction's frees are done.
    """

    def __init__(
        self,
        instrs: Sequence[Instr],
        kernels: Mapping[Op, Kernel],
        *,
        beat: Callable[[int, int], None] = lambda step, index: None,
        memory: Callable[[], int] = lambda: 0,
        sync: Callable[[], None] = lambda: None,
        enter_side: Callable[[], None] = lambda: None,
    ) -> None:
        self.notes: list[Note] = []
        self.gauge: Callable[[int, int, Instr], None] | None = None
        self.inside: Callable[[], list[Stamp]] = list
        self._kernels, self._beat, self._memory, self._sync = kernels, beat, memory, sync
        self._lists = {
            lane: [(i, instr) for i, instr in enumerate(instrs) if instr.lane == lane]
            for lane in Lane
        }
        self._store: dict[Value, Any] = {}
        self._when: dict[Value, int] = {}
        self._missing: dict[Lane, set[Value]] = {lane: set() for lane in Lane}
        self._gates = {lane: _shut() for lane in Lane}
        self._live = 0  # as last read; a message may end before the first kernel has
        self._lock = threading.Lock()  # of `_when`, `_missing` and `_failure`
        self._failure: BaseException | None = None
        self._step = -1
        self._ended = threading.Semaphore(0)
        self._enter_side = enter_side
        self._closed = False
        self._sides: dict[Lane, tuple[threading.Semaphore, threading.Thread]] = {
            lane: (threading.Semaphore(0), self._side_thread(lane))
            for lane in Lane
            if lane != Lane.COMPUTE and self._lists[lane]
        }
        for _, thread in self._sides.values():
            thread.start()

    def run(self, step: int, holds: Mapping[Value, Any]) -> dict[Value, Any]:
        """Run one step from the values held at its start; the values left at its end.

        Raises whatever a kernel raised, from any lane.
        """
        begun = now()
        self._store = dict(holds)
        self._when = dict.fromkeys(holds, begun)
        self._step = step
        for begin, _ in self._sides.values():
            begin.release()
        try:
            self._walk(Lane.COMPUTE)
        except LaneStopped:
            pass
        except BaseException as error:
            # another lane may be standing in a message whose peers wait for this rank: no join
            self._fail(error)
            raise
        for _ in self._sides:
            if self._failure is None:
                self._ended.acquire()
        if self._failure is not None:
            raise self._failure
        return self._store

    def close(self) -> None:
        """End the side threads and let go of every value."""
        self._closed = True
        self._store.clear()
        # after a failure a lane may stand in a message that will never come: nobody waits for it
        patience = 0.0 if self._failure else 5.0
        for begin, thread in self._sides.values():
            begin.release()
            thread.join(timeout=patience)

    def _side_thread(self, lane: Lane) -> threading.Thread:
        return threading.Thread(target=self._side, args=(lane,), daemon=True, name=f"{lane} lane")

    def _side(self, lane: Lane) -> None:
        self._enter_side()
        begin, _ = self._sides[lane]
        while True:
            begin.acquire()
            if self._closed:
                return
            try:
                self._walk(lane)
            except LaneStopped:
                pass
            except BaseException as error:  # shown by the compute lane, which the caller sees
                self._fail(error)
            self._ended.release()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
            for lane, missing in self._missing.items():
                if missing:
                    missing.clear()
                    self._gates[lane].release()

    def _walk(self, lane: Lane) -> None:
        for index, instr in self._lists[lane]:
            self._beat(self._step, index)
            asked = now()
            self._stand_until_there(lane, instr.reads)
            posted = max((self._when[value] for value in instr.reads), default=asked)
            start = asked if instr.op == Op.WAIT else now()
            spent = own_time()
            size = 0
            if instr.op != Op.WAIT:
                size = self._call(instr)
                self._sync()
            done, spent = now(), own_time() - spent
            stamps = self.inside()
            self._publish(instr, done)
            if self.gauge is not None:
                self.gauge(self._step, index, instr)
            posted = asked if instr.op == Op.WAIT else min(posted, start)
            if lane == Lane.COMPUTE and instr.op != Op.WAIT:
                # the allocator counts under its lock, tens of microseconds: a count beside a
                # running kernel would hold that up, and show half of its work
                self._live = self._memory()
            times = (posted, start, done, spent)
            within = stamps if instr.inner and not instr.op.is_message else []
            self.notes.append((self._step, index, *times, size, self._live, within))

    def _call(self, instr: Instr) -> int:
        """Run the kernel; the bytes of a message or copy, which its kernel returns first."""
        reads = {value: self._store[value] for value in instr.reads}
        written = list(self._kernels[instr.op](instr, reads))
        size = int(written.pop(0)) if instr.op.is_message or instr.op.is_copy else 0
        self._store.update(zip(instr.writes, written, strict=True))
        return size

    def _stand_until_there(self, lane: Lane, reads: Sequence[Value]) -> None:
        if all(value in self._when for value in reads) and self._failure is None:
            return
        with self._lock:
            missing = {value for value in reads if value not in self._when}
            if missing and self._failure is not None:
                raise LaneStopped
            self._missing[lane] = missing
        if not missing:
            return
        self._gates[lane].acquire()  # opened once for every set of missing values
        if self._failure is not None:
            raise LaneStopped

    def _publish(self, instr: Instr, done: int) -> None:
        for value in instr.frees:
            del self._store[value]
        if not instr.writes:
            return
        with self._lock:
            for value in instr.writes:
                self._when[value] = done
            # a lane is woken once, when its last input is there, and no other lane with it: a
            # thread that wakes for nothing takes the interpreter from one that computes
            for lane, missing in self._missing.items():
                if missing:
                    missing.difference_update(instr.writes)
                    if not missing:
                        self._gates[lane].release()


def _shut() -> threading.Lock:
    """A gate at which one thread stands, in `acquire`, until another opens it with `release`."""
    gate = threading.Lock()
    gate.acquire()
    return gate

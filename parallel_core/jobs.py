"""Jobs: runs that pages ask for, shared fairly and ended when nobody looks any more.

    submit -> QUEUED (place 1, 2, ...) -> RUNNING -> DONE | FAILED | CANCELLED

A few slots run, a bounded queue waits, an identical request joins the job that is already there.
Whoever looks renews a lease: a tab that was closed renews nothing, and its job ends.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from parallel_core.launch import Pool, Run, RunCancelled, RunError

_TURN_S = 0.2  # how often leases are looked at


class QueueFull(RuntimeError):
    """No room for one more job: the sentence says how many are before it."""


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self not in (Status.QUEUED, Status.RUNNING)


@dataclass(frozen=True, kw_only=True)
class JobState:
    """A job as it stood when asked.

    `place` counts from 1 in the queue and is 0 elsewhere; `events` start at the offset asked for
    (or later, if that has been forgotten) and `next` is the offset to ask for then; `results` are
    by rank; `error` is one sentence and `detail` its traceback; `watchers` hold a lease.
    """

    id: str
    status: Status
    place: int = 0
    events: tuple[dict[str, Any], ...] = ()
    next: int = 0
    results: list[Any] | None = None
    error: str = ""
    detail: str = ""
    watchers: int = 0


@dataclass(eq=False)
class _Job:
    """What the keeper knows of one job."""

    id: str
    target: str
    world_size: int
    args: dict[str, Any]
    events: deque[dict[str, Any]]
    status: Status = Status.QUEUED
    seen: float = field(default_factory=time.monotonic)  # when somebody last looked
    watchers: dict[str, float] = field(default_factory=dict)
    count: int = 0  # events so far, those forgotten included
    run: Run | None = None
    cancelled: bool = False
    results: list[Any] | None = None
    error: str = ""
    detail: str = ""

    @property
    def request(self) -> tuple[str, int, str]:
        """What makes two jobs the same."""
        return self.target, self.world_size, json.dumps(self.args, sort_keys=True)


class Jobs:
    """The jobs of one server. Thread-safe; `close` ends them all.

    `slots` jobs run at once, `queue` more may wait; a job that nobody watched for `lease_s`
    seconds is cancelled; `kept` finished jobs and `events` events of each are remembered.
    """

    def __init__(
        self, pool: Pool, *, slots: int = 1, queue: int = 8, lease_s: float = 6.0, kept: int = 32
    ) -> None:
        self._pool, self._slots, self._queue = pool, slots, queue
        self._lease_s, self._kept = lease_s, kept
        self._jobs: dict[str, _Job] = {}  # oldest first
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._closing = False
        self._clerk = threading.Thread(target=self._attend, daemon=True)
        self._clerk.start()

    # -- what a page calls ---------------------------------------------------------------------

    def submit(self, target: str, world_size: int, args: Mapping[str, Any]) -> str:
        """The id of the job that runs this: a new one, or the same request's that is not over.

        Raises QueueFull when slots and queue are taken.
        """
        asked = _Job("", target, world_size, dict(args), deque(maxlen=10_000))
        with self._changed:
            open_jobs = [job for job in self._jobs.values() if not job.status.over]
            for job in open_jobs:
                if job.request == asked.request and not job.cancelled:
                    job.seen = time.monotonic()
                    return job.id
            if self._closing or len(open_jobs) >= self._slots + self._queue:
                raise QueueFull(self._refusal(len(open_jobs)))
            asked.id = f"j{next(self._numbers)}"
            self._jobs[asked.id] = asked
            self._start_next()
            return asked.id

    def state(self, id: str, offset: int = 0) -> JobState:
        """The job as it stands, with its events from `offset` on.

        Raises KeyError for a job that never was or is forgotten.
        """
        with self._changed:
            job = self._jobs[id]
            first = job.count - len(job.events)
            events = tuple(itertools.islice(job.events, max(offset - first, 0), None))
            now = time.monotonic()
            return JobState(
                id=id,
                status=job.status,
                place=self._place(job),
                events=events,
                next=job.count,
                results=job.results,
                error=job.error,
                detail=job.detail,
                watchers=sum(now - seen < self._lease_s for seen in job.watchers.values()),
            )

    def watch(self, id: str, watcher: str) -> None:
        """Renew the lease: `watcher` (a browser session) still looks. Unknown jobs are ignored."""
        with self._changed:
            if id in self._jobs:
                job = self._jobs[id]
                job.seen = job.watchers[watcher] = time.monotonic()

    def cancel(self, id: str) -> None:
        """End the job, for everybody who watches it. No effect on one that is over or unknown."""
        with self._changed:
            if id in self._jobs:
                self._cancel(self._jobs[id], "the job was cancelled")

    def close(self) -> None:
        """Cancel every job, wait until none runs, take no more."""
        with self._changed:
            self._closing = True
            for job in self._jobs.values():
                self._cancel(job, "the server is closing")
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(job.status.over for job in self._jobs.values()))
        self._clerk.join()

    # -- what happens meanwhile (all under the lock, but for the driving of a run) --------------

    def _refusal(self, before: int) -> str:
        if self._closing:
            return "the server is closing and starts no more jobs"
        return f"{before} jobs run or wait already, which is all there is room for; try again soon"

    def _place(self, job: _Job) -> int:
        queued = [other for other in self._jobs.values() if other.status is Status.QUEUED]
        return queued.index(job) + 1 if job in queued else 0

    def _cancel(self, job: _Job, why: str) -> None:
        if job.status.over or job.cancelled:
            return
        job.cancelled, job.error = True, why
        if job.status is Status.QUEUED:
            job.status = Status.CANCELLED
        elif job.run is not None:
            job.run.cancel()

    def _start_next(self) -> None:
        running = sum(job.status is Status.RUNNING for job in self._jobs.values())
        queued = [job for job in self._jobs.values() if job.status is Status.QUEUED]
        for job in queued[: max(self._slots - running, 0)]:
            job.status = Status.RUNNING
            threading.Thread(target=self._drive, args=(job,), daemon=True).start()

    def _drive(self, job: _Job) -> None:
        """Run one job to its end, in a thread of its own."""
        status, results, error, detail = Status.FAILED, None, "", ""
        try:
            with self._pool.start(job.target, job.world_size, job.args) as run:
                with self._changed:
                    job.run = run
                    if job.cancelled:  # while the run was being started
                        run.cancel()
                for event in run.events():
                    with self._changed:
                        job.events.append(event)
                        job.count += 1
                results, status = run.wait(), Status.DONE
        except RunCancelled:
            status, error = Status.CANCELLED, job.error
        except RunError as failure:
            error, detail = str(failure), failure.detail
        except Exception as failure:  # a job must not stay "running" for ever, whatever happened
            error = f"the job could not be started: {failure}"
        with self._changed:
            job.results, job.error, job.detail = results, error, detail
            job.status, job.run = status, None
            self._forget()
            if not self._closing:
                self._start_next()
            self._changed.notify_all()

    def _forget(self) -> None:
        over = [job.id for job in self._jobs.values() if job.status.over]
        for id in over[: max(len(over) - self._kept, 0)]:
            del self._jobs[id]

    def _attend(self) -> None:
        """The clerk: cancel what nobody has watched for a lease."""
        with self._changed:
            while not self._closing:
                now = time.monotonic()
                for job in self._jobs.values():
                    if now - job.seen > self._lease_s:
                        self._cancel(job, f"nobody watched the job for {self._lease_s:g} s")
                self._changed.wait(_TURN_S)

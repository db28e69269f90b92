"""The desk: what was asked of this server, by name, and who looks at it.

The desk renews the lease of every session that is connected, so a run goes on while the reader
looks at another page, and a hidden tab's slow timers cannot end it.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from dataclasses import dataclass
from functools import cache

from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from parallel_core.jobs import Jobs
from parallel_core.launch import Pool
from parallel_core.request import Request

PRELOAD = (
    "parallel_core.runtime",
    "parallel_core.oracle",
    "parallel_core.deadlock.training",
)
KEPT = 64  # requests remembered by the server
RENEW_S = 2.0  # how often leases are renewed; well under the lease of Jobs


@dataclass(frozen=True)
class Asked:
    """A run that somebody asked for: what, and under which name it stands in a URL."""

    name: str
    job: str
    request: Request


class Desk:
    """The job manager of this server, and what was asked of it. Thread-safe."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.jobs = pool, Jobs(pool)
        self._token = secrets.token_hex(3)  # so that a link of an earlier server names no run
        self._asked: deque[Asked] = deque(maxlen=KEPT)
        self._sessions: dict[tuple[str, str], None] = {}
        self._closing = threading.Event()
        threading.Thread(target=self._renew, daemon=True).start()

    def submit(self, request: Request) -> str:
        """The name of the run of this request; raises QueueFull."""
        job = self.jobs.submit(*request.order)
        name = f"{self._token}-{job}"
        if self.find(name) is None:
            self._asked.append(Asked(name, job, request))
        return name

    def find(self, name: str) -> Asked | None:
        """What was asked under this name, or None."""
        return next((asked for asked in self._asked if asked.name == name), None)

    def watch(self, asked: Asked, session: str) -> None:
        """This session looks at the run; its lease lasts until the session is gone."""
        self._sessions[asked.job, session] = None
        self.jobs.watch(asked.job, session)

    def leave(self, asked: Asked, session: str) -> None:
        """This session looks no more; the run ends at once if nobody else does."""
        self._sessions.pop((asked.job, session), None)
        if not self.watchers(asked):
            self.jobs.cancel(asked.job)

    def watchers(self, asked: Asked) -> int:
        """How many sessions look at the run."""
        return sum(job == asked.job for job, _ in list(self._sessions))

    def close(self) -> None:
        """End every run and the supervisor."""
        self._closing.set()
        self.jobs.close()
        self.pool.close()

    def _renew(self) -> None:
        while not self._closing.wait(RENEW_S):
            for job, session in list(self._sessions):
                if runtime.exists() and runtime.get_instance().is_active_session(session):
                    self.jobs.watch(job, session)
                else:
                    self._sessions.pop((job, session), None)


_FIRST = threading.Lock()


def desk() -> Desk:
    """The server's one desk, made at the first call."""
    with _FIRST:
        return _desk()


@cache
def _desk() -> Desk:
    return Desk(Pool(preload=PRELOAD))


def warm() -> None:
    """Have the ranks' parent process load torch now, so that the first run starts at once."""
    desk().pool.warm()


def close_jobs() -> None:
    """End every run of this server, if it ever had one."""
    if _desk.cache_info().currsize:
        _desk().close()
        _desk.cache_clear()


def session() -> str:
    """The name of the session that this script runs for; empty outside of one."""
    context = get_script_run_ctx()
    return context.session_id if context else ""

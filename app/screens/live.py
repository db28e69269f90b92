"""Runs as pages see them: one desk for the whole server, and the pieces that follow a run.

    press Run -> Desk.submit -> ?job= in the URL -> a fragment that tails the run every second
                                                    (bar, place in the queue, cancel)
    close the tab -> its session is gone -> the lease runs out -> the run ends

The desk renews the lease of every session that is connected, so a run goes on while the reader
looks at another page, and a hidden tab's slow timers cannot end it.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from parallel_core.jobs import Jobs, JobState, QueueFull, Status
from parallel_core.launch import Pool
from parallel_core.parameter_server_report import view_of
from parallel_core.report import RunView
from parallel_core.request import Request
from parallel_core.trace import Trace
from screens.controls import sentence

PRELOAD = ("parallel_core.runtime", "parallel_core.oracle")
KEPT = 64  # requests remembered by the server
MOST = 4  # runs a session keeps, the latest
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


@dataclass(frozen=True)
class Finished:
    """A run that is done: its report, its trace, the same on own devices, and the model's step."""

    report: dict[str, Any]
    trace: Trace
    own: Trace
    model: Trace


@dataclass
class Follower:
    """One session's view of one run: how far it has read, and the trace so far."""

    asked: Asked
    view: RunView
    state: JobState
    finished: Finished | None = None

    def read(self) -> JobState:
        """Take what is new; the state, whose `status.over` says whether anything will follow."""
        self.state = desk().jobs.state(self.asked.job, self.state.next)
        for event in self.state.events:
            self.view.feed(event)
        if self.state.status is Status.DONE and self.finished is None:
            report = self.view.finish(self.state.results or [])
            view = self.view
            self.finished = Finished(report, view.trace, view.own_device(), view.model())
        return self.state

    def recent(self, most: int = 6000) -> Trace:
        """The trace so far; of a long one the last steps, about `most` spans."""
        trace = self.view.trace
        if len(trace.spans) <= most:
            return trace
        each = max(len(trace.spans) // max(len(trace.steps), 1), 1)
        kept = set(trace.steps[-max(most // each, 1) :])
        return replace(trace, spans=tuple(s for s in trace.spans if s.step in kept))


def start(request: Request, page: str) -> None:
    """Ask for a run and put its name into the URL; a full queue is told in one sentence."""
    try:
        st.query_params["job"] = desk().submit(request)
        st.session_state.pop("live.left", None)
    except QueueFull as error:
        st.error(sentence(str(error)))
        return
    st.rerun()


def current(page: str) -> Follower | None:
    """The run that the URL (or, after a look at another page, this session) names, or None."""
    name = st.query_params.get("job") or st.session_state.get(f"{page}.job")
    said = st.session_state.pop(f"{page}.left", None)
    if said:
        st.info(said)
    if name and name == st.session_state.get("live.left"):
        forget(page)
        return None
    if not name:
        return None
    runs: dict[str, Follower] = st.session_state.setdefault("live.runs", {})
    asked = desk().find(name)
    if asked is not None and not isinstance(asked.request, Request):
        asked = None  # a collective's run: the studio follows those
    try:
        if asked is not None and name not in runs:
            unread = JobState(id=asked.job, status=Status.QUEUED)
            runs[name] = Follower(asked, view_of(asked.request.plan), unread)
            for old in list(runs)[:-MOST]:
                del runs[old]
        found = runs[name]
        found.read()
    except KeyError:
        forget(page)
        st.info("That run is not known any more: it is long over, or the server was started anew.")
        return None
    st.session_state[f"{page}.job"] = name
    if st.query_params.get("job") != name:
        st.query_params["job"] = name
    return found


def forget(page: str) -> None:
    """Follow no run on this page any more."""
    st.session_state.pop(f"{page}.job", None)
    st.query_params.pop("job", None)


def _left(run: Follower, page: str, said: str) -> None:
    """Follow the run no more; the page says so once.

    The name is remembered, since a rerun that the browser asked for before brings it back in the
    URL.
    """
    forget(page)
    st.session_state["live.left"] = run.asked.name
    st.session_state[f"{page}.left"] = said


@st.fragment(run_every=1)
def watch(run: Follower, draw: Callable[[Follower], None], page: str) -> None:
    """Follow a run until it is over: progress, place in the queue, cancel, and `draw`.

    When it is over the whole page runs again, without this fragment.
    """
    context = get_script_run_ctx()
    session = context.session_id if context else ""
    desk().watch(run.asked, session)
    if run.read().status.over:
        desk().leave(run.asked, session)
        st.rerun()
    done, steps = len(run.view.metrics), run.asked.request.steps
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(min(done / max(steps, 1), 1.0), text=words(run))
        shared = desk().watchers(run.asked) > 1
        if st.button("Leave" if shared else "Cancel", key="live.cancel", icon=":material/close:"):
            desk().leave(run.asked, session)
            _left(run, page, "Left; it goes on for the others." if shared else "Cancelled.")
            st.rerun()
    draw(run)


def words(run: Follower) -> str:
    """Where a run stands, in words."""
    state, view = run.state, run.view
    if state.status is Status.QUEUED:
        before = "the next one" if state.place == 1 else f"number {state.place}"
        return f"Waiting in the queue: {before}. Somebody else's run goes first."
    done = f"step {len(view.metrics)} of {run.asked.request.steps}" if view.metrics else ""
    loss = f"loss {view.metrics[-1]['loss']:.3f}" if view.metrics else ""
    return ", ".join(part for part in (view.status.capitalize(), done, loss) if part)


def ended(run: Follower) -> Finished | None:
    """Say how a run that is over ended; what it brought, if it finished."""
    state = run.state
    if state.status is Status.FAILED:
        st.error(sentence(state.error))
        if state.detail:
            with st.expander("What the rank said"):
                st.code(state.detail, language=None)
    if state.status is Status.CANCELLED:
        st.info(sentence(state.error))
    return run.finished

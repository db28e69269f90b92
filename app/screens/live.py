"""Runs as pages see them: the pieces that follow a run, from the button to its end.

    press Run -> Desk.submit -> ?job= in the URL -> a fragment that tails the run every second
                                                    (bar, place in the queue, cancel)
    close the tab -> its session is gone -> the lease runs out -> the run ends

desk.py has the desk, and following.py what pages submit besides training runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import streamlit as st

from parallel_core.jobs import JobState, QueueFull, Status
from parallel_core.parameter_server_report import view_of
from parallel_core.report import RunView
from parallel_core.request import Request
from parallel_core.trace import Trace
from screens import chrome
from screens.controls import sentence
from screens.desk import Asked, Desk, close_jobs, desk, session, warm

__all__ = [
    "Asked",
    "Desk",
    "Fed",
    "Finished",
    "Follower",
    "Following",
    "View",
    "attend",
    "close_jobs",
    "current",
    "desk",
    "ended",
    "forget",
    "growing",
    "session",
    "start",
    "warm",
    "watch",
    "words",
]

MOST = 4  # runs a session keeps, the latest


@dataclass(frozen=True)
class Finished:
    """A run that is done: its report, its trace, the same on own devices, and the model's step."""

    report: dict[str, Any]
    trace: Trace
    own: Trace
    model: Trace


class Fed(Protocol):
    """What makes a picture of a job's events."""

    def feed(self, event: Any) -> None:
        """Take one event."""


View = TypeVar("View", bound=Fed)


@dataclass
class Following(Generic[View]):
    """One session's view of one job: how far it has read; `view` takes the events."""

    asked: Asked
    view: View
    state: JobState

    @property
    def going(self) -> bool:
        """Whether more will come."""
        return not self.state.status.over

    def read(self) -> JobState:
        """Take what is new; the state, whose `status.over` says whether anything will follow."""
        self.state = desk().jobs.state(self.asked.job, self.state.next)
        for event in self.state.events:
            self.view.feed(event)
        return self.state


@dataclass
class Follower(Following[RunView]):
    """One session's view of one run, and the trace so far."""

    finished: Finished | None = None

    def read(self) -> JobState:
        """Take what is new; of a run that is done, what it brought as well."""
        super().read()
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


def attend(here: Following[Any]) -> None:
    """In a fragment: this session looks at the job, and reads what is new.

    When it is over the whole page runs again, without the fragment.
    """
    desk().watch(here.asked, session())
    if here.read().status.over:
        desk().leave(here.asked, session())
        st.rerun()


@st.fragment(run_every=1)
def watch(run: Follower, draw: Callable[[Follower], None], page: str) -> None:
    """Follow a run until it is over: progress, place in the queue, cancel, and `draw`.

    When it is over the whole page runs again, without this fragment.
    """
    attend(run)
    done, steps = len(run.view.metrics), run.asked.request.steps
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(min(done / max(steps, 1), 1.0), text=words(run))
        shared = desk().watchers(run.asked) > 1
        if st.button("Leave" if shared else "Cancel", key="live.cancel", icon=":material/close:"):
            desk().leave(run.asked, session())
            _left(run, page, "Left; it goes on for the others." if shared else "Cancelled.")
            st.rerun()
    draw(run)


def growing(run: Follower, page: str) -> Trace:
    """Draw the trace so far, or its last steps; what was drawn."""
    trace = run.recent()
    if trace.spans:
        chrome.player(trace, key=f"{page}.growing", run=run.asked.name)
    return trace


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

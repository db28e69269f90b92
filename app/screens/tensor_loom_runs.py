"""The products a reader ran on the loom page: followed while they run, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from parallel_core.jobs import JobState, QueueFull, Status
from parallel_core.loom.by_hand import Held
from parallel_core.loom.report import LoomView, values_of
from parallel_core.loom.request import LoomRequest
from parallel_core.trace import Trace
from screens import live
from screens.controls import sentence

MOST = 24
NAME = "run"  # in the URL
_KEPT, _FOLLOWED = "loom.kept", "loom.followed"


@dataclass(frozen=True)
class Kept:
    """One finished run of this session, numbered from 1; `trace` is its median repeat."""

    number: int
    name: str
    request: LoomRequest
    report: dict[str, Any]
    trace: Trace
    values: Held | None


@dataclass
class Following:
    """One session's view of one run that may still be going on."""

    asked: live.Asked
    view: LoomView
    state: JobState

    @property
    def going(self) -> bool:
        """Whether more will come."""
        return not self.state.status.over

    def read(self) -> JobState:
        """Take what is new."""
        self.state = live.desk().jobs.state(self.asked.job, self.state.next)
        for event in self.state.events:
            self.view.feed(event)
        return self.state


def start(request: LoomRequest) -> None:
    """Ask for a run and put its name into the URL; a full queue is told in one sentence."""
    try:
        name = live.desk().submit(request)  # type: ignore[arg-type]  # it has an order
    except QueueFull as error:
        st.error(sentence(str(error)))
        return
    st.query_params[NAME] = name
    st.rerun()


def current() -> Following | None:
    """The run that the URL names, as far as it has come; a finished one is kept."""
    name = st.query_params.get(NAME)
    if not name:
        return None
    here = _follow(name)
    if here is None:
        _forget_name()
        st.info("That run is not known any more: it is long over, or the server is a new one.")
        return None
    if not here.going:
        _over(here)
    return here


def _follow(name: str) -> Following | None:
    asked = live.desk().find(name)
    if asked is None or not isinstance(asked.request, LoomRequest):
        return None
    followed: dict[str, Following] = st.session_state.setdefault(_FOLLOWED, {})
    unread = JobState(id=asked.job, status=Status.QUEUED)
    here = followed.setdefault(name, Following(asked, LoomView(asked.request), unread))
    for old in list(followed)[:-4]:
        del followed[old]
    try:
        here.read()
    except KeyError:
        return None
    return here


def _over(here: Following) -> None:
    state = here.state
    if state.status is not Status.DONE:
        st.error(sentence(state.error))
        return
    if all(kept.name != here.asked.name for kept in runs()):
        results = state.results or []
        number = runs()[-1].number + 1 if runs() else 1
        report, trace = here.view.finish(results), here.view.typical()
        request, values = here.view.request, values_of(results)
        runs().append(Kept(number, here.asked.name, request, report, trace, values))
        del runs()[:-MOST]


def _forget_name() -> None:
    st.query_params.pop(NAME, None)


@st.fragment(run_every=0.5)
def watch(here: Following) -> None:
    """Say where the run stands until it is over; then the whole page runs again."""
    context = get_script_run_ctx()
    session = context.session_id if context else ""
    live.desk().watch(here.asked, session)
    if here.read().status.over:
        live.desk().leave(here.asked, session)
        st.rerun()
    request = here.view.request
    queued = f"Waiting in the queue, place {here.state.place}"
    running = f"{request.layout}: {request.repeats} times on {request.ranks} real processes"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(queued if here.state.status is Status.QUEUED else running)
        if st.button("Cancel", key="loom.cancel", icon=":material/close:"):
            live.desk().leave(here.asked, session)
            _forget_name()
            st.rerun()


def runs() -> list[Kept]:
    """Every finished run of this session, oldest first."""
    kept: list[Kept] = st.session_state.setdefault(_KEPT, [])
    return kept


def find(request: LoomRequest) -> Kept | None:
    """The latest run of just this request."""
    return next((kept for kept in reversed(runs()) if kept.request == request), None)


def forget_all() -> None:
    """Forget every run of this session."""
    st.session_state[_KEPT] = []
    _forget_name()

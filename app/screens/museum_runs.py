"""The visits a reader made to the bug museum: followed while they run, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from parallel_core.jobs import JobState, QueueFull, Status
from parallel_core.museum.report import MuseumView, note
from parallel_core.museum.request import Visit
from parallel_core.views import museum as view
from screens import chrome, live
from screens.controls import sentence

NAME = "run"  # in the URL
MOST = 24
_KEPT, _FOLLOWED = "museum.kept", "museum.followed"


@dataclass(frozen=True)
class Kept:
    """One finished visit of this session."""

    name: str
    visit: Visit
    report: dict[str, Any]


@dataclass
class Following:
    """One session's view of a visit that may still be going on."""

    asked: live.Asked
    view: MuseumView
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


def start(visit: Visit) -> None:
    """Ask for a visit and put its name into the URL; a full queue is told in one sentence."""
    try:
        name = live.desk().submit(visit)  # type: ignore[arg-type]  # it has an order
    except QueueFull as error:
        st.error(sentence(str(error)))
        return
    st.query_params[NAME] = name
    st.rerun()


def current() -> Following | None:
    """The visit that the URL names, as far as it has come; a finished one is kept."""
    name = st.query_params.get(NAME)
    if not name:
        return None
    here = _follow(name)
    if here is None:
        forget_name()
        st.info("That visit is not known any more: it is long over, or the server is a new one.")
        return None
    if not here.going:
        _over(here)
    return here


def _follow(name: str) -> Following | None:
    asked = live.desk().find(name)
    if asked is None or not isinstance(asked.request, Visit):
        return None
    followed: dict[str, Following] = st.session_state.setdefault(_FOLLOWED, {})
    unread = JobState(id=asked.job, status=Status.QUEUED)
    here = followed.setdefault(name, Following(asked, MuseumView(asked.request), unread))
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
    if all(kept.name != here.asked.name for kept in kept_visits()):
        report = here.view.finish(state.results or [])
        kept_visits().append(Kept(here.asked.name, here.view.visit, report))
        del kept_visits()[:-MOST]


def forget_name() -> None:
    """Follow no visit any more."""
    st.query_params.pop(NAME, None)


@st.fragment(run_every=1)
def watch(here: Following) -> None:
    """Say where the visit stands, and draw the loss so far; then the whole page runs again."""
    context = get_script_run_ctx()
    session = context.session_id if context else ""
    live.desk().watch(here.asked, session)
    if here.read().status.over:
        live.desk().leave(here.asked, session)
        st.rerun()
    at = next(reversed(here.view.curves), None)
    words = f"{at[0]}, {at[1]}: step {here.view.done} of {here.view.steps} in all" if at else ""
    if here.state.status is Status.QUEUED:
        words = f"Waiting in the queue, place {here.state.place}"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(here.view.done / here.view.steps, text=words or "Starting")
        if st.button("Cancel", key="museum.cancel", icon=":material/close:"):
            live.desk().leave(here.asked, session)
            forget_name()
            st.rerun()
    if at:
        every = here.view.curves.items()
        rows = {which: list(steps) for (optimizer, which), steps in every if optimizer == at[0]}
        badge = f"measured so far, {at[0]}; {note(here.view.visit)}"
        figure = view.curves(rows, "loss", badge=badge, dark=chrome.dark())
        chrome.chart(figure, view.told(rows, "loss"), "museum.growing")


def kept_visits() -> list[Kept]:
    """Every finished visit of this session, oldest first."""
    kept: list[Kept] = st.session_state.setdefault(_KEPT, [])
    return kept


def find(visit: Visit) -> Kept | None:
    """The latest run of just this visit."""
    return next((kept for kept in reversed(kept_visits()) if kept.visit == visit), None)


def forget_all() -> None:
    """Forget every visit of this session."""
    st.session_state[_KEPT] = []
    forget_name()

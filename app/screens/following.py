"""Jobs that a page follows by their name in the URL, and what it keeps of the finished ones.

    press Run -> start -> ?run= in the URL -> current, at each run of the page
                                              -> going: a fragment of the page's own tails it
                                              -> done:  what it brought is kept, once
                                              -> lost:  said in a sentence, and the name goes

live.py follows training runs; this file whatever else a page submits: its request, and the view
that takes its events, are named once, in a `PageJobs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import streamlit as st

from parallel_core.jobs import JobState, QueueFull, Status
from screens import live
from screens.controls import sentence
from screens.live import View

NAME = "run"  # in the URL; training runs stand there under another name
LATEST = 4  # jobs whose events a session remembers


class Named(Protocol):
    """What is kept of a job: at least the name it was followed by, and what was asked."""

    @property
    def name(self) -> str:
        """As in the URL."""

    @property
    def request(self) -> Any:
        """As it was submitted."""


Ask = TypeVar("Ask")
Kept = TypeVar("Kept", bound=Named)


@dataclass(frozen=True, kw_only=True)
class PageJobs(Generic[Ask, View, Kept]):
    """The jobs of one page: what may be asked, what follows it, and what is kept of it."""

    page: str  # the first word of its state and its buttons
    asks: type[Ask]
    view: Callable[[Ask], View]
    keep: Callable[[live.Following[View]], Kept]
    noun: str = "run"  # what a reader calls one
    most: int = 24  # finished ones that are kept

    def submit(self, request: Ask) -> str | None:
        """The name of the job; None after the sentence that says the queue is full."""
        try:
            return live.desk().submit(request)  # type: ignore[arg-type]  # it has an order
        except QueueFull as error:
            st.error(sentence(str(error)))
            return None

    def start(self, request: Ask) -> None:
        """Ask for a job and put its name into the URL."""
        name = self.submit(request)
        if name is not None:
            st.query_params[NAME] = name
            st.rerun()

    def current(self) -> live.Following[View] | None:
        """The job that the URL names, as far as it has come; a finished one is kept."""
        name = st.query_params.get(NAME)
        if not name:
            return None
        here = self.follow(name)
        if here is None:
            self.lost()
        elif not here.going:
            self.over(here)
        return here

    def follow(self, name: str) -> live.Following[View] | None:
        """This session's view of a job, read as far as it has come; None if it is unknown."""
        asked = live.desk().find(name)
        if asked is None or not isinstance(asked.request, self.asks):
            return None
        followed: dict[str, live.Following[View]]
        followed = st.session_state.setdefault(f"{self.page}.followed", {})
        unread = JobState(id=asked.job, status=Status.QUEUED)
        here = followed.setdefault(name, live.Following(asked, self.view(asked.request), unread))
        for old in list(followed)[:-LATEST]:
            del followed[old]
        try:
            here.read()
        except KeyError:
            return None
        return here

    def lost(self) -> None:
        """The URL names a job that nobody knows: say so, and follow it no more."""
        self.forget_name()
        st.info(
            f"That {self.noun} is not known any more: it is long over, or the server is a new one."
        )

    def over(self, here: live.Following[View]) -> bool:
        """Keep what a finished job brought, once; False after the sentence that says it failed."""
        if here.state.status is not Status.DONE:
            st.error(sentence(here.state.error))
            return False
        if all(kept.name != here.asked.name for kept in self.kept()):
            self.kept().append(self.keep(here))
            del self.kept()[: -self.most]
        return True

    def kept(self) -> list[Kept]:
        """Every finished job of this session, oldest first."""
        kept: list[Kept] = st.session_state.setdefault(f"{self.page}.kept", [])
        return kept

    def latest(self, request: Ask) -> Kept | None:
        """The last one of just this request."""
        return next((kept for kept in reversed(self.kept()) if kept.request == request), None)

    def forget_name(self) -> None:
        """Follow no job any more."""
        st.query_params.pop(NAME, None)

    def forget_all(self) -> None:
        """Forget every job of this session."""
        st.session_state[f"{self.page}.kept"] = []
        self.forget_name()

    def cancelled(self, here: live.Following[View]) -> bool:
        """The button Cancel; whether it was pressed, which ends the job unless others look."""
        pressed = st.button("Cancel", key=f"{self.page}.cancel", icon=":material/close:")
        if pressed:
            live.desk().leave(here.asked, live.session())
            self.forget_name()
        return pressed


def place(state: JobState, running: str) -> str:
    """Where a job stands: its place in the queue, or the words for one that runs."""
    if state.status is Status.QUEUED:
        return f"Waiting in the queue, place {state.place}"
    return running

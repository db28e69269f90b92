"""A measurement that a page takes when asked: a job without a name in the URL.

Rank processes do it, like any run: what they find appears as it comes, it can be cancelled, and it
ends when nobody looks any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from parallel_core.jobs import JobState, QueueFull, Status
from screens import live
from screens.controls import sentence

Order = tuple[str, int, dict[str, Any]]
Events = tuple[dict[str, Any], ...]


def _nothing(_events: Events) -> None:
    """For measurements that show nothing before they are over."""


@dataclass(frozen=True)
class Measurement:
    """One measurement of a page, under its own key: its button, its order, its events."""

    key: str
    label: str
    order: Order
    events: int  # that it will send in all
    starting: str = "Measuring"  # said until the first event

    def taken(self, growing: Callable[[Events], None] = _nothing) -> JobState | None:
        """The button, and what follows: progress and `growing`, an error, or the state when done.

        `growing` draws the events so far of a measurement under way.
        """
        if st.button(self.label, type="primary", key=f"{self.key}.measure"):
            self._submit()
        job = st.session_state.get(f"{self.key}.job")
        if job is None:
            return None
        try:
            state = live.desk().jobs.state(job)
        except KeyError:
            st.info("That measurement is forgotten by now; measure again.")
            return None
        if not state.status.over:
            _follow(self, job, growing)
        elif state.status is Status.DONE:
            return state
        else:
            st.error(sentence(state.error))
        return None

    def _submit(self) -> None:
        try:
            st.session_state[f"{self.key}.job"] = live.desk().jobs.submit(*self.order)
        except QueueFull as error:
            st.error(sentence(str(error)))


@st.fragment(run_every=1)
def _follow(asked: Measurement, job: str, growing: Callable[[Events], None]) -> None:
    """Progress and cancel; the whole page again when it is over."""
    jobs = live.desk().jobs
    jobs.watch(job, live.session())
    state = jobs.state(job)
    if state.status.over:
        st.rerun()
    queued = f"Waiting: place {state.place} in the queue"
    running = "Measuring" if state.events else asked.starting
    with st.container(horizontal=True, vertical_alignment="center"):
        done = min(state.next / max(asked.events, 1), 1.0)
        st.progress(done, text=queued if state.status is Status.QUEUED else running)
        if st.button("Cancel", key=f"{asked.key}.cancel", icon=":material/stop_circle:"):
            jobs.cancel(job)
    growing(state.events)

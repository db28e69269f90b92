"""The visits a reader made to the bug museum: followed while they run, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from parallel_core.museum.report import MuseumView, note
from parallel_core.museum.request import Visit
from parallel_core.views import museum as view
from screens import chrome, live
from screens.following import PageJobs, place


@dataclass(frozen=True)
class Kept:
    """One finished visit of this session."""

    name: str
    request: Visit
    report: dict[str, Any]

    @property
    def visit(self) -> Visit:
        """What the page calls the request."""
        return self.request


def _kept(here: live.Following[MuseumView]) -> Kept:
    report = here.view.finish(here.state.results or [])
    return Kept(here.asked.name, here.view.visit, report)


VISITS = PageJobs(page="museum", asks=Visit, view=MuseumView, keep=_kept, noun="visit")
start, current, find = VISITS.start, VISITS.current, VISITS.latest
kept_visits, forget_name, forget_all = VISITS.kept, VISITS.forget_name, VISITS.forget_all


@st.fragment(run_every=1)
def watch(here: live.Following[MuseumView]) -> None:
    """Say where the visit stands, and draw the loss so far; then the whole page runs again."""
    live.attend(here)
    at = next(reversed(here.view.curves), None)
    so_far = f"step {here.view.done} of {here.view.steps} in all"
    running = f"{at[0]}, {at[1]}: {so_far}" if at else "Starting"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(here.view.done / here.view.steps, text=place(here.state, running))
        if VISITS.cancelled(here):
            st.rerun()
    if at:
        every = here.view.curves.items()
        rows = {which: list(steps) for (optimizer, which), steps in every if optimizer == at[0]}
        badge = f"measured so far, {at[0]}; {note(here.view.visit)}"
        figure = view.curves(rows, "loss", badge=badge, dark=chrome.dark())
        chrome.chart(figure, view.told(rows, "loss"), "museum.growing")

"""The products a reader ran on the loom page: followed while they run, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from parallel_core.loom.by_hand import Held
from parallel_core.loom.report import LoomView, values_of
from parallel_core.loom.request import LoomRequest
from parallel_core.trace import Trace
from screens import live
from screens.following import PageJobs, place


@dataclass(frozen=True)
class Kept:
    """One finished run of this session, numbered from 1; `trace` is its median repeat."""

    number: int
    name: str
    request: LoomRequest
    report: dict[str, Any]
    trace: Trace
    values: Held | None


def _kept(here: live.Following[LoomView]) -> Kept:
    results = here.state.results or []
    report, trace = here.view.finish(results), here.view.typical()
    number = runs()[-1].number + 1 if runs() else 1
    return Kept(number, here.asked.name, here.view.request, report, trace, values_of(results))


RUNS = PageJobs(page="loom", asks=LoomRequest, view=LoomView, keep=_kept)
start, current, find = RUNS.start, RUNS.current, RUNS.latest
runs, forget_all = RUNS.kept, RUNS.forget_all


@st.fragment(run_every=0.5)
def watch(here: live.Following[LoomView]) -> None:
    """Say where the run stands until it is over; then the whole page runs again."""
    live.attend(here)
    request = here.view.request
    running = f"{request.layout}: {request.repeats} times on {request.ranks} real processes"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(place(here.state, running))
        if RUNS.cancelled(here):
            st.rerun()

"""P6, the pipeline arena: watch a schedule, build your own, run it on real ranks."""

from __future__ import annotations

import streamlit as st

from screens import chrome, live
from screens.pipeline_build import build
from screens.pipeline_controls import choose
from screens.pipeline_run import run
from screens.pipeline_watch import watch

PAGE = "pipeline"
VIEWS = {"Watch": watch, "Build": build, "Run": run}


def page() -> None:
    """The controls, and one of three views on what they say."""
    chrome.header(
        "Pipeline arena",
        "Every rank holds some of the layers, and microbatches pass through them. The order in "
        "which a rank runs forwards and backwards decides who waits, and how much is in memory.",
    )
    live.warm()
    choice = choose()
    if choice is None:
        return
    view = st.segmented_control(
        "View",
        list(VIEWS),
        default="Watch",
        required=True,
        key="view",
        bind="query-params",
        label_visibility="collapsed",
    )
    VIEWS[view or "Watch"](choice)

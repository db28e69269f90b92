"""Runs that wait for one another: a page asks for several, and each begins when one is over.

Who waits is the session's; the one under way stands in the URL, as any run does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from parallel_core.request import Request
from screens import live

Keep = Callable[[live.Follower, live.Finished], None]
"""Remembers a finished run, once."""


def start(asked: Sequence[Request], page: str) -> None:
    """Ask for the first of these runs; the others wait."""
    st.session_state[f"{page}.waiting"] = list(asked[1:])
    live.start(asked[0], page)


def take(run: live.Follower | None, page: str, keep: Keep) -> live.Follower | None:
    """The run that the page follows; a finished one is kept, and the next that waits begins."""
    if run is None:
        _stop(page)
    elif not run.going:
        done = live.ended(run)
        if done is None:
            _stop(page)
        else:
            keep(run, done)
            _next(page)
    return run


def _next(page: str) -> None:
    waiting: list[Request] = st.session_state.get(f"{page}.waiting", [])
    if waiting:
        live.start(waiting.pop(0), page)


def _stop(page: str) -> None:
    st.session_state.pop(f"{page}.waiting", None)


def after(page: str) -> str:
    """Who comes after the run under way, as the end of a sentence."""
    waiting = len(st.session_state.get(f"{page}.waiting", []))
    return f"; {waiting} more after it" if waiting else ""

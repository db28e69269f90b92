"""Cells of the parity matrix that were run on this server, and those that a reader waits for.

What a cell turned out to be is a fact of this machine, so all sessions of a server share it. A
session has a list of cells it waits for, and asks the desk for one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import streamlit as st

from parallel_core.jobs import QueueFull, Status
from parallel_core.machine import check_bears
from parallel_core.parity.matrix import Cell, cells
from parallel_core.parity.sweep import Check, Outcome, State, judge
from screens import live
from screens.controls import sentence

PAGE = "parity"
WORLD = 8
_WAITING, _ASKED = f"{PAGE}.waiting", f"{PAGE}.asked"
_FIRST = f"{PAGE}.first"  # what a first run found, while the second one looks closer
_MOST = f"{PAGE}.most"  # cells that were waited for at once
REDRAW = 12
"""Cells after which the picture is drawn anew while many run."""


@cache
def matrix() -> dict[str, Cell]:
    """Every cell by its name."""
    return {cell.name: cell for cell in cells(WORLD)}


@cache
def found() -> dict[str, Outcome]:
    """What was found on this server, by the cell's name."""
    return {}


def want(names: Sequence[str]) -> None:
    """Wait for these cells as well, those that can be run and were not yet."""
    waiting: list[str] = st.session_state.setdefault(_WAITING, [])
    waiting += [n for n in names if n not in waiting and matrix()[n].plan and n not in found()]


def waiting() -> list[str]:
    """The names of the cells that this session waits for, the one under way first."""
    names: list[str] = st.session_state.get(_WAITING, [])
    return names


def stop() -> None:
    """Wait for nothing more; the run under way ends if nobody else looks at it."""
    asked: live.Asked | None = st.session_state.pop(_ASKED, None)
    if asked is not None:
        live.desk().leave(asked, live.session())
    st.session_state[_WAITING], st.session_state[_MOST] = [], 0


def forget(name: str) -> None:
    """Run that cell again when it is wanted."""
    found().pop(name, None)


@st.fragment(run_every=0.5)
def watch() -> None:
    """Follow what this session waits for; the page runs again when something is there."""
    if not waiting():
        return
    before = len(found())
    try:
        _go_on()
    except QueueFull as error:
        st.markdown(sentence(str(error)))
    most = max(st.session_state.get(_MOST, 0), len(waiting()))
    st.session_state[_MOST] = most if waiting() else 0
    if not waiting() or (len(found()) > before and len(found()) % REDRAW == 0):
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        done = most - len(waiting())
        text = f"{waiting()[0]}: on real processes, beside one process ({done} of {most} done)"
        st.progress(done / most, text=text)
        if st.button("Cancel", key=f"{PAGE}.cancel", icon=":material/close:"):
            stop()
            st.rerun()


def _go_on() -> None:
    """Take in the run that ended, ask for the next."""
    asked: live.Asked | None = st.session_state.get(_ASKED)
    if asked is not None:
        live.desk().watch(asked, live.session())
        if not _ended(asked):
            return
        st.session_state.pop(_ASKED, None)
    while waiting() and waiting()[0] in found():
        waiting().pop(0)
    if waiting():
        _ask(Check(_plan(waiting()[0]), look=_FIRST in st.session_state))


def _ask(check: Check) -> None:
    check_bears(check.plan)
    name = live.desk().submit(check)  # type: ignore[arg-type]  # it has an order
    st.session_state[_ASKED] = asked = live.desk().find(name)
    if asked is not None:
        live.desk().watch(asked, live.session())


def _ended(asked: live.Asked) -> bool:
    """Whether the run is over; what it found is kept. One that is off runs again, looked at."""
    name = waiting()[0]
    state = live.desk().jobs.state(asked.job)
    if not state.status.over:
        return False
    live.desk().leave(asked, live.session())
    cell, looked = matrix()[name], st.session_state.pop(_FIRST, None)
    if state.status is Status.CANCELLED:
        stop()
    elif state.status is Status.FAILED:
        found()[name] = Outcome(cell=cell, state=State.BROKEN, message=state.error)
    else:
        now = judge(cell, state.results or [])
        if now.state is State.OFF and looked is None:
            st.session_state[_FIRST] = now
            return True
        if looked is not None and now.state is State.EQUAL:
            said = f"{looked.message}; a second run went well"
            now = replace(looked, message=said)
        found()[name] = now
    return True


def _plan(name: str) -> object:
    return matrix()[name].plan

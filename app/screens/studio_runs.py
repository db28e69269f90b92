"""The collectives a reader ran on the studio page: followed while they run, kept, and fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from parallel_core.collectives.formulas import FORMULAS
from parallel_core.collectives.ramp import fit_plain
from parallel_core.collectives.report import CollectiveView
from parallel_core.collectives.request import CollectiveRequest
from parallel_core.hardware.links import WIRES, Wire
from parallel_core.jobs import JobState, QueueFull, Status
from parallel_core.trace import Trace
from screens import live
from screens.controls import sentence

MOST = 40
APART = 32
NAME = "run"  # in the URL; other pages' runs stand under another name
_KEPT, _FOLLOWED = "studio.kept", "studio.followed"
_FIRST, _SECOND = "studio.first", "studio.second"  # of a race: who is over, who comes next


@dataclass(frozen=True)
class Kept:
    """One finished run of this session, numbered from 1; `trace` is its median repeat."""

    number: int
    name: str
    request: CollectiveRequest
    report: dict[str, Any]
    trace: Trace

    @property
    def seconds(self) -> float:
        """The median time of ours."""
        return float(self.report["seconds"]["ours"])


@dataclass
class Following:
    """One session's view of one run that may still be going on."""

    asked: live.Asked
    view: CollectiveView
    state: JobState

    def read(self) -> JobState:
        """Take what is new."""
        self.state = live.desk().jobs.state(self.asked.job, self.state.next)
        for event in self.state.events:
            self.view.feed(event)
        return self.state


def start(first: CollectiveRequest, second: CollectiveRequest | None = None) -> None:
    """Ask for a run, and for another one after it; a full queue is told in one sentence."""
    before = st.session_state.pop(_FIRST, "")
    try:
        name = live.desk().submit(first)  # type: ignore[arg-type]  # it has an order
    except QueueFull as error:
        st.error(sentence(str(error)))
        return
    st.query_params[NAME] = f"{before},{name}" if before else name
    st.session_state[_SECOND] = second
    st.rerun()


def current() -> Following | None:
    """The run that the URL names (of a race the second), as far as it has come.

    Finished ones are kept; the second of a race is started when the first is over.
    """
    names = (st.query_params.get(NAME) or "").split(",")[-2:]
    found = [_follow(name) for name in names if name]
    if None in found:
        _forget_name()
        st.info("That run is not known any more: it is long over, or the server is a new one.")
        return None
    for here in found:
        if here is not None and here.state.status.over:
            _over(here)
    return found[-1] if found else None


def _follow(name: str) -> Following | None:
    """This session's view of a run, read as far as it has come; None for one that is unknown."""
    asked = live.desk().find(name)
    if asked is None or not isinstance(asked.request, CollectiveRequest):
        return None
    followed: dict[str, Following] = st.session_state.setdefault(_FOLLOWED, {})
    unread = JobState(id=asked.job, status=Status.QUEUED)
    here = followed.setdefault(name, Following(asked, CollectiveView(asked.request), unread))
    for old in list(followed)[:-4]:
        del followed[old]
    try:
        here.read()
    except KeyError:
        return None
    return here


def _over(here: Following) -> None:
    """Keep what a finished run brought; then the race's second has its turn."""
    state = here.state
    if state.status is Status.DONE and all(kept.name != here.asked.name for kept in runs()):
        number = runs()[-1].number + 1 if runs() else 1
        report, trace = here.view.finish(state.results or []), here.view.typical()
        runs().append(Kept(number, here.asked.name, here.view.request, report, trace))
        del runs()[:-MOST]
    if state.status is not Status.DONE:
        st.error(sentence(state.error))
        st.session_state.pop(_SECOND, None)
    second = st.session_state.pop(_SECOND, None)
    if second is not None:
        st.session_state[_FIRST] = here.asked.name
        start(second)


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
    running = f"{request.algorithm}: {request.repeats} times on {request.ranks} real processes"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(queued if here.state.status is Status.QUEUED else running)
        if st.button("Cancel", key="studio.cancel", icon=":material/close:"):
            live.desk().leave(here.asked, session)
            st.session_state.pop(_SECOND, None)
            _forget_name()
            st.rerun()


def runs() -> list[Kept]:
    """Every finished run of this session, oldest first."""
    kept: list[Kept] = st.session_state.setdefault(_KEPT, [])
    return kept


def find(request: CollectiveRequest) -> Kept | None:
    """The latest run of just this request."""
    return next((kept for kept in reversed(runs()) if kept.request == request), None)


def alike(request: CollectiveRequest) -> list[Kept]:
    """The runs of the same op among the same group, whatever the algorithm and the size."""
    return [k for k in runs() if (k.request.op, k.request.group) == (request.op, request.group)]


def forget_all() -> None:
    """Forget every run of this session."""
    st.session_state[_KEPT] = []
    _forget_name()


def this_machine() -> Wire:
    """A message between two processes here: fitted to the session's runs, else assumed."""
    return fitted(runs())


def fitted(kept: Sequence[Kept]) -> Wire:
    """The link that explains these runs best; the assumed one where they cannot say.

    Sizes that lie close together tell nothing of latency: they must differ by a factor of 32.
    """
    points = [point for run in kept for point in _messages(run)]
    assumed = WIRES["loopback"]
    sizes = [size for size, _ in points]
    if not sizes or max(sizes) < APART * min(sizes):
        return assumed
    link = fit_plain(points)
    if not link.alpha:
        return assumed
    numbers = f"fitted from runs #{kept[0].number} to #{kept[-1].number}"
    return replace(
        assumed,
        title=f"this machine, {numbers}",
        bandwidth=link.beta,
        latency=link.alpha,
        source=numbers,
        latency_source=numbers,
    )


def _messages(kept: Kept) -> list[tuple[float, float]]:
    """The one message that, as often as the algorithm has them in a row, takes the run's time."""
    request = kept.request
    path = FORMULAS[request.op][request.algorithm].path(request.group)
    if not path or not request.bytes:
        return []
    count = sum(many for many, _ in path)
    share = float(sum(many * share for many, share in path))
    return [(share * request.bytes / count, kept.seconds / count)]

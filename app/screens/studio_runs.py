"""The collectives a reader ran on the studio page: followed while they run, kept, and fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from parallel_core.collectives.formulas import FORMULAS
from parallel_core.collectives.ramp import fit_plain
from parallel_core.collectives.report import CollectiveView
from parallel_core.collectives.request import CollectiveRequest
from parallel_core.hardware.links import WIRES, Wire
from parallel_core.trace import Trace
from screens import live
from screens.following import NAME, PageJobs, place

APART = 32
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


def _kept(here: live.Following[CollectiveView]) -> Kept:
    report, trace = here.view.finish(here.state.results or []), here.view.typical()
    number = runs()[-1].number + 1 if runs() else 1
    return Kept(number, here.asked.name, here.view.request, report, trace)


RUNS = PageJobs(page="studio", asks=CollectiveRequest, view=CollectiveView, keep=_kept, most=40)
runs, find, forget_all = RUNS.kept, RUNS.latest, RUNS.forget_all


def start(first: CollectiveRequest, second: CollectiveRequest | None = None) -> None:
    """Ask for a run, and for another one after it; both names stand in the URL."""
    before = st.session_state.pop(_FIRST, "")
    name = RUNS.submit(first)
    if name is None:
        return
    st.query_params[NAME] = f"{before},{name}" if before else name
    st.session_state[_SECOND] = second
    st.rerun()


def current() -> live.Following[CollectiveView] | None:
    """The run that the URL names (of a race the second), as far as it has come.

    Finished ones are kept; the second of a race is started when the first is over.
    """
    names = (st.query_params.get(NAME) or "").split(",")[-2:]
    found = [RUNS.follow(name) for name in names if name]
    if None in found:
        RUNS.lost()
        return None
    for here in found:
        if here is not None and not here.going:
            _over(here)
    return found[-1] if found else None


def _over(here: live.Following[CollectiveView]) -> None:
    """Keep what a finished run brought; then the race's second has its turn."""
    if not RUNS.over(here):
        st.session_state.pop(_SECOND, None)
    second = st.session_state.pop(_SECOND, None)
    if second is not None:
        st.session_state[_FIRST] = here.asked.name
        start(second)


@st.fragment(run_every=0.5)
def watch(here: live.Following[CollectiveView]) -> None:
    """Say where the run stands until it is over; then the whole page runs again."""
    live.attend(here)
    request = here.view.request
    running = f"{request.algorithm}: {request.repeats} times on {request.ranks} real processes"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(place(here.state, running))
        if RUNS.cancelled(here):
            st.session_state.pop(_SECOND, None)
            st.rerun()


def alike(request: CollectiveRequest) -> list[Kept]:
    """The runs of the same op among the same group, whatever the algorithm and the size."""
    return [k for k in runs() if (k.request.op, k.request.group) == (request.op, request.group)]


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

"""The arena's deadlock for real: an order on processes whose messages wait for each other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import streamlit as st
import theme

from parallel_core.deadlock.finding import BUFFERED, CURED, PASSING, STRICT
from parallel_core.deadlock.report import StrictView, Told
from parallel_core.deadlock.request import StrictRun
from parallel_core.fields import PlanError
from parallel_core.pipeline.order import Order
from parallel_core.views import wait_for
from screens import chrome, live
from screens.controls import sentence
from screens.following import PageJobs, place
from screens.pipeline_build import current
from screens.pipeline_controls import MINE, SIZES, Choice, one_of

PAGE = "pipeline.strict"
SCRIPT = """
/* A picture as it comes; what is wider than the page scrolls, also by keyboard. */
export default function ({ parentElement, data }) {
  const text = typeof data === "string" ? data : new TextDecoder().decode(data);
  parentElement.querySelector("#graph").innerHTML = JSON.parse(text);
}
"""


@dataclass(frozen=True)
class Kept:
    """One finished run of this session."""

    name: str
    request: StrictRun
    told: Told


def _kept(here: live.Following[StrictView]) -> Kept:
    return Kept(here.asked.name, here.view.asked, here.view.finish())


RUNS = PageJobs(page=PAGE, asks=StrictRun, view=StrictView, keep=_kept)


def strict(choice: Choice) -> None:
    """Choose whose order and how messages pass, run it, and see who waits for whom."""
    st.subheader("On real processes", anchor=False)
    st.markdown(
        "The same for real: a small model trains one step in this order, a process a rank, every "
        "message in line with the tasks. On NCCL a send occupies its stream until the receive "
        "runs. Here, on processors, it waits likewise, and ranks that can never go on notice."
    )
    request = _request(choice)
    here = RUNS.current()
    going = here is not None and here.going
    if request is not None:
        _button(request, going=going)
    if here is not None and here.going:
        _watch(here)
    elif request is not None and (kept := RUNS.latest(request)) is not None:
        _show(kept.told)


def _request(choice: Choice) -> StrictRun | None:
    """What would run; None after the sentence that says what is missing."""
    left, right = st.columns(2)
    with left:
        whose = one_of("Whose order", "whose", [choice.name, MINE], choice.name)
    with right:
        passing = one_of("Messages", "passing", list(PASSING), STRICT, help_of=_passing)
    order = choice.order
    if whose == MINE:
        mine = current(choice).order
        if mine is None:
            st.info("Your schedule is not whole yet: finish it under *Build*.")
            return None
        order = mine
    try:
        return _asked(order, passing).checked()
    except PlanError as error:
        chrome.complain(error, mend=whose != MINE and error.field in SIZES)
        return None


def _passing(name: str) -> str:
    return sentence(PASSING[name])


@lru_cache(maxsize=32)
def _asked(order: Order, passing: str) -> StrictRun:
    return StrictRun.of_order(order, passing)


def _button(request: StrictRun, *, going: bool) -> None:
    label = f"Run on {request.plan.world_size} processes"
    more: dict[str, Any] = {"disabled": going, "icon": ":material/play_arrow:"}
    if st.button(label, type="primary", key=f"{PAGE}.run", **more):
        RUNS.start(request)


@st.fragment(run_every=0.5)
def _watch(here: live.Following[StrictView]) -> None:
    """Say where the run stands until it is over; then the whole page runs again."""
    live.attend(here)
    size, met = here.view.asked.plan.world_size, here.view.met
    running = "The ranks compute, and wait" if met == size else f"{met} of {size} ranks have met"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(here.view.done, text=place(here.state, running))
        if RUNS.cancelled(here):
            st.rerun()


# -- what happened ---------------------------------------------------------------------------------


def _show(told: Told) -> None:
    """The two verdicts beside each other; the graph, if there is one; the command."""
    theme.verdict(*_headline(told))
    rows = [
        {"who": "check, before it runs", "says": told.written},
        {"who": f"{told.asked.plan.world_size} real processes", "says": told.sentence},
    ]
    if told.ran:
        rows.append({"who": "check, of the calls that were made", "says": told.ran})
    chrome.table(rows)
    chrome.badge(told.trace)
    if told.graph is not None:
        _graph(told)
    elif told.losses:
        st.markdown(f"The loss of the step they trained: {told.losses[-1]:.6f}.")
    with st.expander("The same from a terminal"):
        st.markdown("With the order saved as text in `mine.txt`:")
        st.code(told.asked.command("mine.txt"), language=None, wrap_lines=True)
        st.code(told.asked.plan.order or "", language=None)


def _headline(told: Told) -> tuple[str, str]:
    """Deadlock or not, and what it means, with whether `check` had said so."""
    if told.graph is not None:
        said = "had said so before anything ran" if not told.legal else "had called it legal"
        return "Deadlock", f"Found by the ranks themselves; check {said}."
    if told.asked.passing == CURED:
        return "No deadlock", "Nothing stands behind a message that it does not need."
    if told.asked.passing == BUFFERED:
        hides = "This hides nothing: check calls the order legal with strict sends as well."
        if not told.legal:
            hides = "On NCCL the same order hangs, as check says: run it strictly."
        return "No deadlock to see", f"Sends that return at once wait for nobody. {hides}"
    agreed = "check agrees" if told.legal else "check does not agree"
    return "No deadlock", (
        "Every send waited for its receiver, as NCCL's do, and all ranks came to their end: as "
        f"measured here the order is safe under these semantics, and {agreed}."
    )


def _graph(told: Told) -> None:
    """The wait-for graph, which a keyboard can scroll on a narrow page, and its rows."""
    graph = told.graph
    assert graph is not None
    title = "Who waits for whom"
    badge = told.trace.provenance.badge
    picture = wait_for.wait_for(graph, dark=chrome.dark(), title=title, badge=badge)
    region = f'<div tabindex="0" role="region" aria-label="{title}" style="overflow-x: auto">'
    component = st.components.v2.component(
        "shardlab_wait_for", html='<div id="graph"></div>', js=SCRIPT
    )
    component(key=f"{PAGE}.graph", data=json.dumps(f"{region}{picture}</div>").encode())
    st.markdown(sentence(graph.sentence.rpartition("; ")[2]))
    waits = {arrow.waiter: arrow for arrow in graph.arrows}
    rows = []
    for stand in graph.stands:
        arrow = waits.get(stand.rank)
        rows.append(
            {
                "rank": stand.rank,
                "stands": stand.place,
                "waits for rank": "" if arrow is None else str(arrow.peer),
                "which": "" if arrow is None else arrow.why,
                "stood, s": f"{stand.waited_s:.2f}" if stand.waited_s else "",
            }
        )
    chrome.table(rows)

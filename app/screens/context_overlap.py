"""One run of the context ring replayed twice: hops beside the tiles, and hops waited for first."""

from __future__ import annotations

import streamlit as st

from parallel_core.context import METHODS
from parallel_core.context.layout import Travels
from parallel_core.cost import Link
from parallel_core.plan import Plan
from parallel_core.replay import fit_link, fitted_rate, replay
from parallel_core.trace import Trace
from parallel_core.views import context_overlap as view
from parallel_core.views.outcome import typical_step
from screens import chrome
from screens import shard_bench_runs as runs
from screens.context_ring_controls import PAGE


def overlap(here: runs.Kept, balance: float) -> None:
    """Both replays over one link, and what of the messages is exposed in each; only of a ring."""
    if METHODS[here.plan.cp_method].travels == Travels.NOTHING:
        return
    st.header("Overlap, on and off", anchor=False)
    link = link_of(here, balance)
    on, off = (replayed(here, link, ahead) for ahead in (True, False))
    st.markdown(
        "Your run replayed with a device for each rank: its own processor times, laid out once "
        "with the next hop under way beside this hop's tiles and once with each hop waited for "
        f"first. Both over one link, {'as chosen above' if balance else 'fitted to your run'}: "
        f"{link}."
    )
    st.markdown(view.in_words(view.exposed(on), view.exposed(off)))
    name = str(st.session_state.get("way") or "forward")  # as chosen for the hops above
    task = {"op": name[0].upper(), "where": "layer0"}
    drawn = view.figures(on, off, **task, dark=chrome.dark())
    if drawn is None:
        return
    for said, figure in zip(("on", "off"), drawn, strict=True):
        st.markdown(f"{name.capitalize()} of the first layer, overlap {said}.")
        alt = f"{name}, overlap {said}: tasks of the ranks and their messages"
        chrome.chart(figure, alt, f"{PAGE}.overlap.{said}")
    chrome.table(view.table(on, off, **task))


def link_of(here: runs.Kept, balance: float) -> Link:
    """The link of both replays: the one that `balance` FLOPs a byte make at the run's own rate, or
    for 0 the one fitted to the run."""
    if balance:
        return Link(alpha=0.0, beta=fitted_rate(here.plan, here.done.trace) / balance)
    return fit_link(here.done.trace, runs.program(here.plan))


def replayed(here: runs.Kept, link: Link, ahead: bool) -> Trace:
    """The typical step of the run as it would have been with this overlap."""
    plan: Plan = here.plan.but(overlap_cp=ahead)
    trace = here.done.trace
    step = trace.only(typical_step(trace))
    return replay(plan, runs.program(plan), step, link=link)

"""Watching a schedule: its simulated timeline, its numbers, and another one beside it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from parallel_core.analysis.bubble import Bubble, bubble
from parallel_core.analysis.cause import Cause
from parallel_core.analysis.idle import idle
from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.formulas import FORMULAS, Beat
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Times
from parallel_core.program import ProgramError
from parallel_core.simulate import simulate
from parallel_core.views.reading import Units
from screens import chrome
from screens.pipeline_compare import compare, reading, table
from screens.pipeline_controls import Choice, Seen
from screens.pipeline_strict import strict

PAGE = "pipeline"
NANO = 1e9


def watch(choice: Choice) -> None:
    """Predict, then the timeline, the numbers, the causes, the comparison."""
    guess = _predict(choice)
    if not guess.settled:
        return
    here = choice.seen
    chrome.reveal(guess, 100 * here.figures.bubble_fraction, "%")
    _headline(here)
    st.header("The timeline", anchor=False)
    title = _title(choice, here)
    words = {"title": title, "run": f"{title} {choice.clock}", "bubbles": here.figures}
    chrome.player(here.trace, key=f"{PAGE}.watch", **words, **reading(choice))
    _paper_colours()
    _bubbles(choice, here)
    _causes(here)
    compare(choice)
    table(choice)
    _deadlock(here.order, here.times)
    strict(choice)
    chrome.export(here.trace, f"{choice.name}_{choice.p}x{choice.m}", PAGE)


def _paper_colours() -> None:
    st.toggle(
        "Colours of the papers",
        key="paper",
        bind="query-params",
        help="as figures in the literature have them; ours were tested to be told apart",
    )


def _predict(choice: Choice) -> chrome.Guess:
    t = choice.clock
    return chrome.predict(
        PAGE,
        f"{choice.name} on {choice.p} ranks, {choice.m} microbatches, F, I, W of {t.tf:g}, "
        f"{t.ti:g}, {t.tw:g} beats: which share of all the ranks' time is nobody working?",
        unit="%",
        high=100.0,
    )


def _title(choice: Choice, here: Seen) -> str:
    several = f", {here.order.chunks} stages a rank" if here.order.chunks > 1 else ""
    return f"{choice.name}, {choice.p} ranks, {choice.m} microbatches{several}"


def _headline(here: Seen) -> None:
    held = "by rank " + ", ".join(f"{peak:g}" for peak in here.figures.peak_in_flight)
    with st.container(horizontal=True, gap="medium"):
        st.metric("Makespan", f"{here.figures.makespan:g} beats", width="content")
        st.metric("Idle, of all time", f"{here.figures.bubble_fraction:.1%}", width="content")
        st.metric(
            "In flight, fullest rank",
            f"{here.peak:g}",
            help=f"microbatches whose forward has run and whose backward has not: {held}",
            width="content",
        )
        st.metric("Messages", f"{here.messages}", width="content")
        st.metric("Copies of the weights", f"{here.copies:g}", width="content")


# -- the numbers -----------------------------------------------------------------------------------


def _bubbles(choice: Choice, here: Seen) -> None:
    """One idle time, three names for it; and what the paper says beside what was simulated."""
    st.header("One bubble, three names", anchor=False)
    found = here.figures
    rows = [
        {"name": "bubble ratio", "is": "idle / work", "simulated": found.bubble_ratio},
        {"name": "bubble fraction", "is": "idle / all time", "simulated": found.bubble_fraction},
        {
            "name": "bubble rate",
            "is": "1 - work / the longest rank's own span",
            "simulated": found.bubble_rate,
        },
        {
            "name": "internal bubble",
            "is": "idle between a rank's first and last task / that span",
            "simulated": found.internal_fraction,
        },
    ]
    chrome.table([{**row, "simulated": f"{row['simulated']:.2%}"} for row in rows])
    _on_paper(choice, here)


def _on_paper(choice: Choice, here: Seen) -> None:
    """The published formula, where there is one, beside the same number of the simulation."""
    law = FORMULAS.get(choice.name)
    if law is None:
        st.markdown(f"For {choice.name} we found no closed formula; the simulation stands alone.")
        return
    t, v = choice.clock, choice.stages_a_rank
    beat = Beat(f=t.tf, i=t.ti, w=t.tw)
    paper, peak = law.bubble(choice.p, beat, v), law.peak(choice.p, choice.m, v)
    inside = max(here.figures.spans) - max(here.figures.work)
    whole = here.figures.makespan - max(here.figures.work)
    said = "none for these times" if paper is None else f"{paper:g} beats"
    chrome.table(
        [
            {
                "on paper and simulated": "bubble time of a rank",
                "formula": said,
                "simulated": f"{whole:g} beats of the step, {inside:g} inside the longest rank",
            },
            {
                "on paper and simulated": "in flight, fullest rank",
                "formula": f"{peak:g}",
                "simulated": f"{here.peak:g}",
            },
            {
                "on paper and simulated": "copies of the weights",
                "formula": f"{law.copies}",
                "simulated": f"{here.copies:g}",
            },
        ]
    )
    assumed = "The formulas know no latency and no slow rank, and want a pipeline that is full."
    st.markdown(f"{choice.schedule.source}. {assumed}")


def _causes(here: Seen) -> None:
    """Every idle beat by its cause, rank by rank, and the longest ones in words."""
    slots = idle(here.trace, lower(here.order))
    found = bubble(here.trace, slots)
    st.header("Why they stand still", anchor=False)
    if not found.causes:
        st.markdown("Nobody ever does.")
        return
    st.markdown(_sums(found))
    chrome.table(cause_rows(found, NANO, "beats"))
    longest = sorted((s for s in slots if s.inside), key=lambda s: -s.ns)[:6]
    if longest:
        with st.expander("The longest inside a rank, in words"):
            say = Units(beats=True).time
            lines = [f"- rank {s.rank}, at {s.start / NANO:g}: {s.told(say)}" for s in longest]
            st.markdown(chrome.plain("\n".join(lines)))


def _sums(found: Bubble) -> str:
    whole = sum(found.causes.values())
    parts = [f"{cause.value} {ns / whole:.0%}" for cause, ns in found.causes.items()]
    return f"Of {whole / NANO:g} idle beats over all ranks: {', '.join(parts)}."


def cause_rows(found: Bubble, per: float, unit: str) -> list[dict[str, Any]]:
    """A line a rank: what it worked, and what it stood for each cause, in `per` nanoseconds."""
    causes = [cause for cause in Cause if cause in found.causes]
    return [
        {
            "rank": row.rank,
            f"work, {unit}": f"{row.work_ns / per:.4g}",
            **{cause.value: f"{row.causes.get(cause, 0) / per:.4g}" for cause in causes},
            "in flight at most": f"{row.in_flight:g}",
        }
        for row in found.ranks
    ]


# -- the failure one can reach ---------------------------------------------------------------------


def _deadlock(order: Order, times: Times) -> None:
    """The same order with messages in line with the work and sends that wait to be received."""
    st.header("Without asynchronous sends", anchor=False)
    st.markdown(
        "Put every message in line with the work, and let a send wait until the other end "
        "receives it. Does the order still come to its end?"
    )
    if not st.toggle("Blocking sends and receives", key="blocking", bind="query-params"):
        return
    cost = PipelineCost.of(order, times)
    try:
        trace = simulate(lower(order, blocking=True), cost, rendezvous=True)
    except ProgramError as error:
        st.error(chrome.sentence(str(error)))
        return
    st.markdown(f"It does, in {trace.makespan / NANO:g} beats.")
    chrome.player(
        trace, key=f"{PAGE}.blocking", title="blocking sends", unit="beats", memory="microbatches"
    )

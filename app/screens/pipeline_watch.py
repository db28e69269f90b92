"""Watching a schedule: its simulated timeline, its numbers, and another one beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st
import theme

from parallel_core.analysis.bubble import Bubble, bubble
from parallel_core.analysis.cause import Cause
from parallel_core.analysis.idle import idle
from parallel_core.fields import PlanError
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.clock import PipelineCost
from parallel_core.pipeline.formulas import FORMULAS, Beat
from parallel_core.pipeline.lower import lower
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Times
from parallel_core.program import ProgramError
from parallel_core.simulate import simulate
from screens import chrome
from screens.pipeline_controls import NOBODY, Choice, Seen, allowed, one_of
from screens.pipeline_match import Same, matched

PAGE = "pipeline"
NANO = 1e9
EASY = 400  # tasks: so many are simulated for the whole table without being asked


def watch(choice: Choice) -> None:
    """Predict, then the timeline, the numbers, the causes, the comparison."""
    guess = _predict(choice)
    if not guess.settled:
        return
    here = choice.seen
    chrome.reveal(guess, 100 * here.figures.bubble_fraction, "%")
    _headline(here)
    chrome.player(here.trace, key=f"{PAGE}.watch", title=_title(choice, here))
    st.caption("A beat is drawn as a second. Memory counts microbatches, each stage its share.")
    _bubbles(choice, here)
    _causes(here)
    _compare(choice)
    _table(choice)
    _deadlock(here.order, here.times)
    chrome.export(here.trace, f"{choice.name}_{choice.p}x{choice.m}", PAGE)


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
    places = st.columns(4)
    places[0].metric("Makespan", f"{here.figures.makespan:g} beats")
    places[1].metric("Idle, of all time", f"{here.figures.bubble_fraction:.1%}")
    places[2].metric(
        "In flight, fullest rank",
        f"{here.peak:g}",
        help="microbatches whose forward has run and whose backward has not: by rank "
        + ", ".join(f"{peak:g}" for peak in here.figures.peak_in_flight),
    )
    places[3].metric("Messages, copies of weights", f"{here.messages} · {here.copies:g}")


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
    st.caption(f"{choice.schedule.source}. {assumed}")


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
            lines = [f"- rank {s.rank}, at {s.start / NANO:g}: {s.sentence}" for s in longest]
            st.markdown(chrome.plain("\n".join(lines)))
            st.caption("A beat is written as a second.")


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


# -- another one beside it -------------------------------------------------------------------------


def _compare(choice: Choice) -> None:
    """A second schedule under the first, with one thing held equal."""
    st.header("Against another", anchor=False)
    places = st.columns(2)
    with places[0]:
        others = [NOBODY, *(name for name in SCHEDULES if name != choice.name)]
        rival = one_of("Race against", "against", others, NOBODY)
    with places[1]:
        same = one_of("Held equal", "same", [*Same], Same.DEVICES)
    if rival == NOBODY:
        st.markdown(
            "Which is better depends on what is held equal: the number of *devices*, the number "
            "of *stages* the model is cut into, or the activation *memory* of a rank."
        )
        return
    try:
        other, sentence = matched(choice, rival, Same(same))
        there = other.seen
    except PlanError as error:
        chrome.complain(error, mend=False)
        return
    here = choice.seen
    st.markdown(chrome.plain(sentence))
    theme.verdict(*_winner(choice, here, other, there))
    chrome.player(there.trace, key=f"{PAGE}.rival", title=_title(other, there))
    chrome.table([_row(choice.name, here), _row(other.name, there)])


def _winner(choice: Choice, here: Seen, other: Choice, there: Seen) -> tuple[str, str]:
    """Who is first, by how much, and at what memory; by the microbatch if they differ in number."""
    even = here.order.m == there.order.m
    ours, theirs = (seen.figures.makespan / (1 if even else seen.order.m) for seen in (here, there))
    unit = "beats" if even else "beats a microbatch"
    memory = f"In flight on the fullest rank: {here.peak:g} and {there.peak:g} microbatches."
    if abs(ours - theirs) < 1e-9:
        return f"A tie: {ours:.4g} {unit}", memory
    first, second = (choice, other) if ours < theirs else (other, choice)
    ahead = f"{first.name} is {abs(ours - theirs):.4g} {unit} ahead of {second.name}"
    return ahead, f"{ours:.4g} for {choice.name}, {theirs:.4g} for {other.name}. {memory}"


def _row(name: str, seen: Seen) -> dict[str, Any]:
    found = seen.figures
    return {
        "schedule": name,
        "devices": f"{seen.order.p}",
        "stages": f"{seen.order.stages}",
        "microbatches": f"{seen.order.m}",
        "makespan": f"{found.makespan:g}",
        "a microbatch": f"{found.makespan / seen.order.m:.4g}",
        "ratio": f"{found.bubble_ratio:.1%}",
        "fraction": f"{found.bubble_fraction:.1%}",
        "rate": f"{found.bubble_rate:.1%}",
        "in flight": f"{seen.peak:g}",
        "weights": f"{seen.copies:g}x",
        "messages": f"{seen.messages}",
    }


def _table(choice: Choice) -> None:
    """Every schedule of the table under the same settings; those that refuse say why."""
    st.header("All of them, under these settings", anchor=False)
    found = allowed(choice)
    orders = {name: order for name, order in found.items() if isinstance(order, Order)}
    tasks = max(sum(map(len, order.ranks)) for order in orders.values())
    if tasks > EASY and not st.toggle(
        f"Simulate all {len(orders)}", key="all", bind="query-params"
    ):
        return
    rows = []
    for name in orders:
        seen = replace(choice, name=name).seen
        stale = " (stale weights)" if SCHEDULES[name].asynchronous else ""
        rows.append(_row(name + stale, seen))
    chrome.table(rows, first=24)
    refused = {name: why for name, why in found.items() if isinstance(why, PlanError)}
    if refused:
        with st.expander(f"{len(refused)} refuse these settings"):
            lines = [f"- **{name}**: {chrome.plain(str(why))}." for name, why in refused.items()]
            st.markdown("\n".join(lines))


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
    chrome.player(trace, key=f"{PAGE}.blocking", title="blocking sends")

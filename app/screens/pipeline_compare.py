"""Two schedules on one time axis with one thing held equal, and the whole table beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st
import theme

from parallel_core.fields import PlanError
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.order import Order
from parallel_core.views import player as player_view
from screens import chrome
from screens.pipeline_build import current
from screens.pipeline_controls import MINE, NOBODY, Choice, Seen, allowed, one_of, seen
from screens.pipeline_match import Same, matched

PAGE = "pipeline"
EASY = 400  # tasks: so many are simulated for the whole table without being asked


def reading(choice: Choice) -> dict[str, Any]:
    """How the player reads a schedule on paper; it counts microbatches, and draws the cap."""
    paper = st.query_params.get("paper") == "true" or bool(st.session_state.get("paper"))
    return {
        "unit": "beats",
        "memory": "microbatches",
        "cap": choice.cap or 0,
        "colours": "paper" if paper else "tested",
    }


@dataclass(frozen=True)
class Contender:
    """Who runs in the race: a name, and what was simulated of it."""

    name: str
    seen: Seen

    @property
    def makespan(self) -> float:
        """Beats of its step."""
        return self.seen.figures.makespan


def compare(choice: Choice) -> None:
    """A second schedule under the first, with one thing held equal."""
    st.header("Against another", anchor=False)
    mine = current(choice).order
    places = st.columns(2)
    with places[0]:
        others = [NOBODY, *(name for name in SCHEDULES if name != choice.name)]
        rival = one_of("Race against", "against", [*others, MINE] if mine else others, NOBODY)
    with places[1]:
        same = one_of("Held equal", "same", [*Same], Same.DEVICES)
    if rival == NOBODY:
        st.markdown(
            "Which is better depends on what is held equal: the number of *devices*, the number "
            "of *stages* the model is cut into, or the activation *memory* of a rank. A whole "
            "schedule of your own can race too."
        )
        return
    here = Contender(choice.name, choice.seen)
    try:
        there, sentence = _rival(choice, rival, Same(same), mine)
    except PlanError as error:
        chrome.complain(error, mend=False)
        return
    st.markdown(chrome.plain(sentence))
    theme.verdict(*_winner(here, there))
    _race(choice, here, there)
    chrome.table([_row(here.name, here.seen), _row(there.name, there.seen)])


def _rival(choice: Choice, name: str, same: Same, mine: Order | None) -> tuple[Contender, str]:
    """The second one, and what is held equal; the reader's own runs where it was built."""
    if name == MINE and mine is not None:
        sentence = f"Yours and {choice.name} run on the same {mine.p} devices."
        return Contender(MINE, seen(mine, choice.times)), sentence
    other, sentence = matched(choice, name, same)
    return Contender(name, other.seen), sentence


def _race(choice: Choice, here: Contender, there: Contender) -> None:
    """Both on one time axis, under one cursor."""
    both = (here, there)
    data = player_view.race_payload(
        {one.name: one.seen.trace for one in both},
        run=f"{choice} {there.name} {hash(there.seen.order)}",
        bubbles={one.name: one.seen.figures for one in both},
        **reading(choice),
    )
    component = st.components.v2.component(
        "shardlab_player", html='<div id="player"></div>', js=player_view.source()
    )
    text = json.dumps(data, separators=(",", ":"))
    component(key=f"{PAGE}.race", data=text.encode(), on_picked_change=lambda: None)


def _winner(here: Contender, there: Contender) -> tuple[str, str]:
    """Who is first, by how much, and at what memory; by the microbatch if they differ in number."""
    even = here.seen.order.m == there.seen.order.m
    ours, theirs = (one.makespan / (1 if even else one.seen.order.m) for one in (here, there))
    unit = "beats" if even else "beats a microbatch"
    memory = (
        f"In flight on the fullest rank: {here.seen.peak:g} and {there.seen.peak:g} microbatches."
    )
    if abs(ours - theirs) < 1e-9:
        return f"A tie: {ours:.4g} {unit}", memory
    first, second = (here, there) if ours < theirs else (there, here)
    ahead = f"{first.name} is {abs(ours - theirs):.4g} {unit} ahead of {second.name}"
    return ahead, f"{ours:.4g} for {here.name}, {theirs:.4g} for {there.name}. {memory}"


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


def table(choice: Choice) -> None:
    """Every schedule of the table under the same settings; those that refuse say why."""
    st.header("All of them, under these settings", anchor=False)
    tasks = sum(map(len, choice.order.ranks))
    wish = {"key": "all", "bind": "query-params"}
    if tasks > EASY and not st.toggle(f"Simulate all {len(SCHEDULES)}", **wish):
        return
    found = allowed(choice)
    orders = {name: order for name, order in found.items() if isinstance(order, Order)}
    rows = []
    for name in orders:
        stale = " (stale weights)" if SCHEDULES[name].asynchronous else ""
        rows.append(_row(name + stale, replace(choice, name=name).seen))
    chrome.table(rows, first=24)
    refused = {name: why for name, why in found.items() if isinstance(why, PlanError)}
    if refused:
        with st.expander(f"{len(refused)} refuse these settings"):
            lines = [f"- **{name}**: {chrome.plain(str(why))}." for name, why in refused.items()]
            st.markdown("\n".join(lines))

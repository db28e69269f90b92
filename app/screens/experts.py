"""P9, the expert exchange: tokens that travel to experts, who is flooded, and what cures it."""

from __future__ import annotations

import streamlit as st

from parallel_core.expert.capacity import drop_rate, even, places
from parallel_core.request import Request
from screens import chrome, in_turn, live
from screens import experts_results as results
from screens import experts_runs as runs
from screens.experts_ahead import ahead
from screens.experts_controls import PAGE, choose
from screens.experts_cure import placements
from screens.experts_grid import grid
from screens.experts_pair import CURES, asked_pair, pair
from screens.predict import Guess
from screens.predict_choice import choose_one, reveal_choice

SLOW = f"{PAGE}.slow"
ANSWERS = (
    "the one with the first experts",
    "one in the middle",
    "the one with the last experts",
    "none: all have as many tokens to start with",
)
ASKED = {"seq": 64, "experts": 8, "top_k": 1}
"""The question about capacity."""


def page() -> None:
    """Choose a router, predict, look at every token, run it for real, cure it."""
    chrome.header(
        "Expert exchange",
        "A layer has many experts, each rank holds some, and a router sends every token to a few. "
        "Nobody plans how many tokens an expert gets, and a step waits for the fullest rank.",
    )
    live.warm()
    request = choose()
    if request is None:
        return
    run = runs.current()
    slow, guess = _predict(request)
    going = run is not None and run.going
    _buttons(request, slow, guess, going=going)
    if run is not None and going:
        live.watch(run, _growing, PAGE)
    elif (slow.settled and guess.settled) or run is not None:
        _open(request, slow, guess)


# -- asking ----------------------------------------------------------------------------------------


def _predict(request: Request) -> tuple[Guess, Guess]:
    """Two guesses: who is slowest, and what a capacity of 1 costs a router that is even."""
    slow = choose_one(
        SLOW,
        "All ranks hold as many experts and begin with as many tokens; the router leans to the "
        "first experts, and nothing stops it. Which rank does the step wait for?",
        ANSWERS,
    )
    guess = chrome.predict(
        PAGE,
        f"{ASKED['experts']} experts, each chosen with the same chance; every token of a sequence "
        f"of {ASKED['seq']} chooses one, and an expert has a place for just its share, "
        f"{_room()} tokens (capacity 1.0). How many per cent of the tokens are dropped?",
        unit="%",
        high=100.0,
    )
    return slow, guess


def _room() -> int:
    return places(ASKED["seq"], experts=ASKED["experts"], top_k=ASKED["top_k"], factor=1.0)


def lost() -> float:
    """The answer, per cent."""
    chances = even(ASKED["experts"], ASKED["top_k"])
    return 100 * drop_rate(chances, ASKED["seq"], _room())


def _buttons(request: Request, slow: Guess, guess: Guess, *, going: bool) -> None:
    """Run the plan alone, or uncured and cured, one after the other."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        icon = {"disabled": going, "icon": ":material/play_arrow:"}
        one = st.button("Run", type="primary", key=f"{PAGE}.run", **icon)
        icon["icon"] = ":material/compare_arrows:"
        both = st.button("Run uncured, then cured", key=f"{PAGE}.both", **icon)
        st.selectbox("Cure", list(CURES), key="cure", bind="query-params", width=260)
    if not (one or both):
        return
    chrome.commit({SLOW: slow, PAGE: guess})
    in_turn.start(asked_pair(request) if both else [request], PAGE)


def _growing(run: live.Follower) -> None:
    plan = run.asked.request.plan
    said = f"{plan.layout}, router {plan.model.router}, balance {plan.model.balance}"
    st.caption(said + in_turn.after(PAGE))
    live.growing(run, PAGE)


# -- showing ---------------------------------------------------------------------------------------


def _open(request: Request, slow: Guess, guess: Guess) -> None:
    """Everything, once the reader has said what to expect."""
    plan = request.plan
    here = runs.latest(plan)
    right, why = results.waited_for(here)
    if right is None:
        said = "Skipped" if slow.value is None else f"You said {ANSWERS[int(slow.value)]}"
        st.markdown(f"**{said}.** {why}")
    else:
        reveal_choice(slow, ANSWERS, right, why)
    chrome.reveal(guess, lost(), "%")
    st.markdown(
        "Even chances are not even loads: some experts get more than their share, and what is "
        "above it is dropped. A dropped token skips the layer: it keeps what it was."
    )
    if here is not None:
        results.proof(here)
    grid(plan, here)
    results.over_steps(here)
    results.slowest_rank(here)
    results.bytes_of_ranks(plan, here)
    results.ways_to_dispatch(plan, here)
    placements(here)
    ahead(here)
    pair(request)
    results.take_away(request, here)

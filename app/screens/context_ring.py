"""P10, the context ring: a sequence cut over ranks, and who attends to whom at which hop."""

from __future__ import annotations

import json

import streamlit as st
import theme

from parallel_core.context.layout import Layout, in_step, work
from parallel_core.fields import PlanError
from parallel_core.request import Request
from parallel_core.trace import Kind
from parallel_core.views import context_ring as view
from parallel_core.views.context_clock import Clock, account
from parallel_core.views.context_map import in_words
from parallel_core.views.context_plans import rivals
from screens import chrome, live
from screens import context_ring_results as results
from screens import shard_bench_runs as runs
from screens.context_bench import rounding
from screens.context_overlap import overlap
from screens.context_ring_controls import PAGE, Choice, choose
from screens.predict import Guess
from screens.predict_choice import choose_one, reveal_choice

IDLE = f"{PAGE}.idle"
ASKED = 4  # ranks of the question
ANSWERS = (
    "the first, with the earliest tokens",
    "one in the middle",
    "the last, with the latest tokens",
    "none: all have the same to do",
)
WHY = (
    "A query sees the keys before it. The first block has hardly any before it; the last has all "
    "of them. So the first rank is done first, and the last one sets the time."
)


def page() -> None:
    """Choose a method, predict, look at every tile and hop, run it for real."""
    chrome.header(
        "Context ring",
        "A sequence too long for one rank is cut over several, and each token must still attend "
        "to those before it. What travels, how far, and who waits depends on the cut.",
    )
    live.warm()
    choice = choose()
    if choice is None:
        return
    run = runs.current(PAGE)
    idle, guess = _predict()
    going = run is not None and run.going
    _button(choice, idle, guess, going=going)
    if run is not None and going:
        live.watch(run, _growing, PAGE)
    elif (idle.settled and guess.settled) or run is not None:
        _open(choice, idle, guess)


# -- asking ----------------------------------------------------------------------------------------


def _predict() -> tuple[Guess, Guess]:
    """Two guesses: who is idle, and what zigzag wins."""
    idle = choose_one(
        IDLE,
        "Causal attention, the sequence cut into neighbouring chunks, one a rank; keys and values "
        "go round a ring. Which rank has the least to compute?",
        ANSWERS,
    )
    guess = chrome.predict(
        PAGE,
        f"{ASKED} ranks, messages that take no time, every hop as long as its slowest rank: how "
        "many times as fast is the zigzag ring as the contiguous one?",
        unit="times",
        low=0.1,
        high=100.0,
    )
    return idle, guess


def _button(choice: Choice, idle: Guess, guess: Guess, *, going: bool) -> None:
    """Run: what was guessed so far is locked first."""
    start = st.button(
        "Run", type="primary", key=f"{PAGE}.run", icon=":material/play_arrow:", disabled=going
    )
    if not choice.runs:
        st.markdown("A run is causal, and cut as its method cuts; the figure shows another choice.")
    if not start:
        return
    try:
        request = Request.of(**choice.values).checked()
    except PlanError as error:
        chrome.complain(error, mend=error.field in choice.values)
        return
    chrome.commit({IDLE: idle, PAGE: guess})
    live.start(request, PAGE)


def _growing(run: live.Follower) -> None:
    st.caption(run.asked.request.plan.layout)
    live.growing(run, PAGE)


# -- showing ---------------------------------------------------------------------------------------


def _open(choice: Choice, idle: Guess, guess: Guess) -> None:
    """Everything, once the reader has said what to expect."""
    reveal_choice(idle, ANSWERS, least(ASKED), WHY)
    chrome.reveal(guess, wins(ASKED), "times")
    n = choice.plan.cp
    st.markdown(
        "That is 2 − 1/N: the mask halves the work, but, cut in contiguous chunks, not the time. "
        f"For your {n} ranks it is {wins(n):.4g}."
    )
    here = runs.latest(choice.plan, PAGE)
    if here is not None:
        results.proof(here)
    _map(choice, here)
    results.bytes_of_all(choice.plan)
    if here is not None:
        results.stamps(here)
        overlap(here, choice.balance)
    results.crossover(choice)
    rounding()
    results.take_away(choice, here)


def least(n: int) -> int:
    """The right answer, from the work of each rank in the contiguous ring."""
    totals = [sum(row) for row in work(Layout(seq=n, ranks=n))]
    fewest = [rank for rank, total in enumerate(totals) if total == min(totals)]
    if len(fewest) == n:
        return 3
    return 0 if fewest[0] == 0 else 2 if fewest[0] == n - 1 else 1


def wins(n: int) -> float:
    """How many times as fast zigzag is, each hop waiting for its slowest rank."""
    times = [in_step(work(Layout(seq=2 * n, ranks=n, zigzag=zigzag))) for zigzag in (False, True)]
    return float(times[0] / times[1])


def _map(choice: Choice, here: runs.Kept | None) -> None:
    """The tile map with its cursor, the race below it, and the same in words."""
    st.header("Who computes what, and when", anchor=False)
    clock = choice.clock
    others = rivals(clock, choice.plan)
    wire = f"{clock.balance:g} FLOPs a byte" if clock.balance else "messages take no time"
    theme.badge(Kind.MODELLED, f"modelled: attention's forward alone; {wire}")
    mount(clock, others, run=f"{choice.plan.layout} {choice.mask} {choice.cut}")
    st.markdown(
        "A tile of time is one block of queries against one block of keys, unmasked. The number "
        "on a tile is the hop, its colour the rank."
    )
    with st.expander("In words"):
        lines = "\n".join(f"- {line}" for line in account(clock))
        st.markdown(f"{in_words(clock)}\n\n{lines}")
        chrome.table(results.race_rows(others))


def mount(clock: Clock, others: tuple[Clock, ...], *, run: str) -> None:
    """The figure on the page; the cursor lives in the browser."""
    data = view.payload(clock, others, run=run, dark=chrome.dark())
    component = st.components.v2.component(
        "shardlab_context", html='<div id="player"></div>', js=view.source()
    )
    component(key=f"{PAGE}.figure", data=json.dumps(data, separators=(",", ":")).encode())

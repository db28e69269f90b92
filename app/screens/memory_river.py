"""P8, Memory river: what a step keeps for its backward, and what it costs not to keep it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from parallel_core.params import units
from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.request import Request
from parallel_core.views.river_prices import ALL, POLICIES, Price
from screens import (
    chrome,
    in_turn,
    live,
    memory_river_figure,
    memory_river_prices,
    results,
    river_panel,
)
from screens import shard_bench_runs as runs
from screens.predict import Guess
from screens.predict_choice import choose_one, reveal_choice
from screens.shard_bench_pair import pin_button

PAGE = "memory"
MAIN = ("recompute", "recompute_every", "offload", "tp", "sp", "attention", "dialect",
        "microbatches")  # fmt: skip
MORE = ("layers", "hidden", "heads", "seq", "global_batch", "vocab", "dropout", "dp")
TYPES = ("dtype", "optimizer", "tied", "steps")
DEFAULTS = {
    "attention": "unfused", "dialect": "gpt", "layers": 4, "heads": 8, "seq": 256,
    "global_batch": 2, "steps": 6,
}  # fmt: skip
MOST_INSTRUCTIONS = 6_000
TENSOR = {
    "one rank": {"tp": 1, "sp": False, "overlap_tp": False},
    "TP 2": {"tp": 2, "sp": False},
    "TP 2 + SP": {"tp": 2, "sp": True},
}


def page() -> None:
    """Choose a policy, predict, run, and see each byte that a forward left for its backward."""
    chrome.header(
        "Memory river",
        "A forward keeps tensors until its backward has used them, and in training they are most "
        "of the memory. What is not kept must be computed again, cut over ranks, or fetched from "
        "the host.",
    )
    live.warm()
    request = _controls()
    if request is None or not _drawable(request.plan):
        return
    run = runs.current(PAGE)
    prices = memory_river_prices.prices(request.plan)
    which, guess = _predict(request.plan)
    going = run is not None and run.going
    _buttons(request, prices, (which, guess), going=going)
    if run is not None and going:
        live.watch(run, _growing, PAGE)
    elif (which.settled and guess.settled) or run is not None:
        _results(request.plan, prices, which, guess)


# -- asking ----------------------------------------------------------------------------------------


def _controls() -> Request | None:
    with st.container(horizontal=True):
        for name, fields in (*POLICIES.items(), *TENSOR.items()):
            label = {ALL: "Keep all"}.get(name, name[0].upper() + name[1:])
            st.button(label, key=f"{PAGE}.{name}", on_click=_take, args=(fields,))
    values = chrome.plan_controls(MAIN, defaults=DEFAULTS)
    with st.expander("Model, batch, types, capacity, steps"):
        values |= chrome.plan_controls((*MORE, *TYPES), defaults=DEFAULTS)
        river_panel.ask_capacity()
    return chrome.request(values)


def _take(fields: dict[str, Any]) -> None:
    """Put a policy's or a layout's values into the controls."""
    shown = {name: value for name, value in fields.items() if name in MAIN}
    st.session_state.update(shown)


def _drawable(plan: Plan) -> bool:
    """Whether the step is small enough to lay out; else says so."""
    size = plan.world_size * plan.microbatches * 3 * len(units(plan.model))
    return chrome.laid_out(size, MOST_INSTRUCTIONS)


def _predict(plan: Plan) -> tuple[Guess, Guess]:
    """Two guesses: which policy, and by how much."""
    rows = plan.rows_per_microbatch
    several = "1 sequence" if rows == 1 else f"{rows} sequences"
    which = choose_one(
        f"{PAGE}.which",
        f"{plan.model.layers} {plan.model.dialect} layers, {plan.seq} tokens, {several} a "
        f"microbatch, {plan.layout}: which policy has the smallest peak of activations?",
        list(POLICIES),
    )
    guess = chrome.predict(
        PAGE,
        "And how many times smaller is its peak of activations than the peak of keeping all?",
        unit="times",
        high=10_000.0,
    )
    return which, guess


def _buttons(
    request: Request, prices: list[Price], guesses: tuple[Guess, Guess], *, going: bool
) -> None:
    """Run the plan, or each policy of it one after the other."""
    with st.container(horizontal=True):
        icon = {"disabled": going, "icon": ":material/play_arrow:"}
        one = st.button("Run", type="primary", key=f"{PAGE}.run", **icon)
        icon["icon"] = ":material/stacked_line_chart:"
        every = st.button("Run every policy", key=f"{PAGE}.every", **icon)
        pin_button(request.plan)
    if not (one or every):
        return
    chrome.commit(dict(zip((f"{PAGE}.which", PAGE), guesses, strict=True)))
    plans = [price.plan for price in prices] if every else [request.plan]
    asked = [Request.of(**plan.flat(), steps=request.steps) for plan in plans]
    in_turn.start(asked, PAGE)


def _growing(run: live.Follower) -> None:
    name = memory_river_prices.policy_of(run.asked.request.plan)
    st.caption(f"{name}, {run.asked.request.plan.layout}{in_turn.after(PAGE)}")
    live.growing(run, PAGE)


# -- showing ---------------------------------------------------------------------------------------


def _results(plan: Plan, prices: list[Price], which: Guess, guess: Guess) -> None:
    here = runs.latest(plan, PAGE)
    capacity = river_panel.capacity()
    _reveal(prices, which, guess)
    if here is not None:
        results.parity(here.done.report["parity"], plan.dtype)
    memory_river_figure.show(plan, here, capacity)
    memory_river_prices.fits(plan, prices, capacity)
    memory_river_prices.show(prices, capacity)
    memory_river_figure.blocks_of(plan, here)
    memory_river_prices.pair(plan)
    if here is not None:
        results.ledgers(here.done.report, PAGE)
        results.terminal(plan, here.done)
        forget = {"on_click": runs.forget_all, "args": (PAGE,), "type": "tertiary"}
        st.button("Forget my runs", key=f"{PAGE}.forget", **forget)
    trace = runs.modelled(plan) if here is None else here.done.trace
    chrome.export(trace, "memory_river", PAGE)


def _reveal(prices: list[Price], which: Guess, guess: Guess) -> None:
    """Which policy it is, and by how much."""
    named = [price for price in prices if price.name in POLICIES]
    least = min(named, key=lambda price: price.activations)
    whole = prices[0].activations
    why = (
        f"Predicted, {bytes_text(least.activations)} of activations at most, where keeping all "
        f"needs {bytes_text(whole)}."
    )
    reveal_choice(which, list(POLICIES), list(POLICIES).index(least.name), why)
    chrome.reveal(guess, whole / least.activations, "times")

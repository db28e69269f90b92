"""P5, Shard bench: where the bytes of training state lie, when, and what sharding them sends."""

from __future__ import annotations

from typing import Any

import streamlit as st

from parallel_core.params import units
from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.request import Request
from parallel_core.views.shards import describe_grid, shard_grid
from parallel_core.views.shards_traffic import at_stage, elements
from screens import (
    chrome,
    in_turn,
    live,
    results,
    river_panel,
    shard_bench_fits,
    shard_bench_pair,
    shard_bench_river,
    shard_bench_stages,
)
from screens import shard_bench_runs as runs

PAGE = "shard_bench"
MAIN = ("zero", "dp", "shard", "microbatches", "prefetch", "keep_gathered", "clip")
MORE = ("layers", "hidden", "heads", "vocab", "tied", "dialect", "seq", "global_batch")
TYPES = ("dtype", "optimizer", "moments", "steps")
DEFAULTS = {"dp": 4, "zero": 3, "steps": 4}
MOST_INSTRUCTIONS = 12_000
PRESETS = {
    "FSDP": {"zero": 3, "dp": 4, "shard": None, "microbatches": 1, "keep_gathered": False},
    "HSDP, two copies": {"zero": 3, "dp": 4, "shard": 2, "microbatches": 1},
    "Accumulate 4 microbatches": {"zero": 3, "dp": 4, "shard": None, "microbatches": 4},
    "Keep what was gathered": {"zero": 3, "dp": 4, "shard": None, "keep_gathered": True},
}


def page() -> None:
    """Choose, predict, run, and lay every byte that existed under the one that was promised."""
    chrome.header(
        "Shard bench",
        "Data-parallel ranks all hold the same weights, gradients and optimizer state. ZeRO cuts "
        "them into shards, one kind a stage; what is then needed whole is gathered, used, freed.",
    )
    live.warm()
    request = _controls()
    if request is None or not _drawable(request.plan):
        return
    run = runs.current(PAGE)
    _shares(request.plan)
    guess = _predict(request.plan)
    going = run is not None and run.going
    _buttons(request, guess, going=going)
    if run is not None and going:
        live.watch(run, _growing, PAGE)
    elif guess.settled or run is not None:
        _results(request.plan, guess, river_panel.capacity())


# -- asking ----------------------------------------------------------------------------------------


def _controls() -> Request | None:
    values = chrome.plan_controls(MAIN, defaults=DEFAULTS)
    with st.expander("Model, types, batch, capacity, steps"):
        values |= chrome.plan_controls((*MORE, *TYPES), defaults=DEFAULTS)
        river_panel.ask_capacity()
    with st.container(horizontal=True):
        for name, fields in PRESETS.items():
            st.button(name, key=f"{PAGE}.{name}", on_click=_take, args=(fields,))
    return chrome.request(values)


def _take(fields: dict[str, Any]) -> None:
    """Put a preset's values into the controls."""
    st.session_state.update(fields)


def _drawable(plan: Plan) -> bool:
    """Whether there is something to share, and not too much to lay out; else says so."""
    if plan.dp == 1:
        st.info("dp=1 is one rank, with nobody to share with; take dp=2 or more.")
        return False
    size = plan.dp * plan.microbatches * 6 * len(units(plan.model))
    return chrome.laid_out(size, MOST_INSTRUCTIONS)


def _shares(plan: Plan) -> None:
    """Who shares what: the size of the thing, and the grid."""
    whole = runs.stage(at_stage(plan, 0), None)
    rank = sum(max(each) for each in whole.predicted.values())
    st.markdown(
        f"Ψ = {elements(plan):,} weights. Under plain data parallelism each of the {plan.dp} "
        f"ranks holds {bytes_text(rank)} of training state, the same on all of them."
    )
    if not plan.zero:
        st.markdown("ZeRO stage 0 is plain data parallelism: nothing is shared.")
        return
    words = describe_grid(plan)
    st.markdown(words)
    chrome.chart(shard_grid(plan, dark=chrome.dark()), words, f"{PAGE}.grid")


def _predict(plan: Plan) -> chrome.Guess:
    count = plan.microbatches
    several = "one microbatch" if count == 1 else f"{count} microbatches"
    return chrome.predict(
        PAGE,
        f"With {plan.layout} and {several} a step: how many times the elements that a rank sends "
        "under plain data parallelism does it send?",
        unit="times",
        high=10_000.0,
    )


def _buttons(request: Request, guess: chrome.Guess, *, going: bool) -> None:
    """Run the plan, or each stage of it one after the other."""
    with st.container(horizontal=True):
        icon = {"disabled": going, "icon": ":material/play_arrow:"}
        one = st.button("Run", type="primary", key=f"{PAGE}.run", **icon)
        icon["icon"] = ":material/stacked_bar_chart:"
        every = st.button("Run all four stages", key=f"{PAGE}.every", **icon)
        shard_bench_pair.pin_button(request.plan)
    if not (one or every):
        return
    chrome.commit({PAGE: guess})
    in_turn.start(runs.every_stage(request) if every else [request], PAGE)


def _growing(run: live.Follower) -> None:
    st.caption(run.asked.request.plan.layout + in_turn.after(PAGE))
    live.growing(run, PAGE)


# -- showing ---------------------------------------------------------------------------------------


def _results(plan: Plan, guess: chrome.Guess, capacity: float | None) -> None:
    here = runs.latest(plan, PAGE)
    found = runs.traffic(plan, here)
    base = runs.traffic(at_stage(plan, 0), None)
    chrome.reveal(guess, found.total / base.total, "times")
    if here is not None:
        results.parity(here.done.report["parity"], plan.dtype)
        _replicas(here.done.report.get("replicas"))
    shard_bench_stages.memory(plan, capacity)
    shard_bench_river.show(plan, here, capacity)
    shard_bench_stages.sent(plan)
    shard_bench_pair.show(plan)
    if here is not None:
        results.ledgers(here.done.report, PAGE)
        results.terminal(plan, here.done)
        forget = {"on_click": runs.forget_all, "args": (PAGE,), "type": "tertiary"}
        st.button("Forget my runs", key=f"{PAGE}.forget", **forget)
    shard_bench_fits.show()
    trace = runs.modelled(plan) if here is None else here.done.trace
    chrome.export(trace, f"zero{plan.zero}", PAGE)


def _replicas(found: dict[str, Any] | None) -> None:
    """Whether ranks that hold the same weights still did after every step."""
    if not found or not found["steps"]:
        return
    if found["equal"]:
        st.markdown(
            f"**Replicas are equal to the bit** after each of {found['steps']} steps: the hashes "
            "of all ranks that hold the same weights."
        )
    else:
        st.error(chrome.sentence(f"replicas differ: {found['first_difference']}"))

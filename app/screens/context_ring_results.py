"""What a run of the context ring brought beside what was predicted; bytes and times in print."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
import theme

from parallel_core.context import METHODS
from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.trace import Kind
from parallel_core.views import context_measured, context_plans, context_quoted, context_stamps
from parallel_core.views.context_clock import Clock
from parallel_core.views.ledger_bars import ledger_bars
from parallel_core.views.outcome import typical_step
from screens import chrome, context_bench
from screens import results as shared
from screens import shard_bench_runs as runs
from screens.context_ring_controls import PAGE, Choice


def race_rows(rivals: Sequence[Clock]) -> list[dict[str, str]]:
    """The race as a table."""
    first = min(each.total for each in rivals)
    return [
        {
            "ring": each.method,
            "work of each rank": ", ".join(f"{total:.3g}" for total in each.totals),
            "time": f"{each.total:.4g}",
            "to the fastest": f"{each.total / first:.4g} x",
            "ranks wait": f"{100 * each.idle:.0f} %",
        }
        for each in rivals
    ]


def proof(here: runs.Kept) -> None:
    """The error against one process, and the run's lengths."""
    st.header("Counted in the run", anchor=False)
    shared.parity(here.done.report["parity"], here.plan.dtype)
    shared.clocks(here.done)


def bytes_of_all(plan: Plan) -> None:
    """What each method sends, predicted, and counted in this reader's runs."""
    st.header("Bytes of every method", anchor=False)
    counted: dict[str, float] = {}
    for kept in st.session_state.get(f"{PAGE}.runs", []):
        if _alike(kept.plan, plan):
            counted[str(kept.plan.cp_method)] = context_plans.counted(kept.done.report, kept.plan)
    found = context_plans.traffic(plan, counted)
    drawn = [one for one in found if not one.refused]
    bars = [(one.method, float(one.total), one.counted) for one in drawn]
    badge = "modelled: predicted from the plan" + "; measured: counted in your runs" * bool(counted)
    said = "; ".join(f"{one.method} {bytes_text(one.total)}" for one in drawn)
    figure = ledger_bars(bars, badge=badge, dark=chrome.dark())
    title = "Sent by a rank for one layer and microbatch, forward and backward"
    st.markdown(f"{title}.")
    chrome.chart(figure, f"{title}: {said}", f"{PAGE}.bytes")
    chrome.table(context_plans.rows(found))
    for one in found:
        if one.refused:
            st.warning(chrome.sentence(f"{one.method}: {one.refused}"))
    st.markdown(
        "An all-gather and a ring bring the same keys, one all at once, the other a block at a "
        "time. The ring's gradients need one hop more, to come home. Ulysses sends less the more "
        "ranks there are; keys of fewer heads (GQA) make every method but pass-Q cheaper."
    )


def _alike(one: Plan, other: Plan) -> bool:
    """The same layer, cut over as many ranks: only the method differs."""
    usual = {"cp_method": "zigzag", "ulysses": None, "overlap_cp": True}
    same_inside = "hybrid" not in (one.cp_method, other.cp_method) or (
        (one.ulysses or 2) == (other.ulysses or 2)
    )
    return same_inside and one.but(**usual) == other.but(**usual)


def stamps(here: runs.Kept) -> None:
    """Every hop inside one layer, as each rank stamped it."""
    st.header("Hop by hop, as it ran", anchor=False)
    trace = here.done.trace.only(typical_step(here.done.trace))
    places = st.columns(2)
    with places[0]:
        ways = {"forward": "F", "backward": "B"}
        way = st.segmented_control(
            "Way", list(ways), default="forward", required=True, key="way", bind="query-params"
        )
    with places[1]:
        last = here.plan.model.layers - 1
        layer = 0
        if last:
            layer = int(st.number_input("Layer", 0, last, 0, key="layer", bind="query-params"))
    found = context_stamps.tasks(trace, ways[str(way)], f"layer{layer}")
    if not found:
        st.info("This run left no task of that layer.")
        return
    rows = context_stamps.table(found)
    said = f"Messages inside layer {layer}, {way}, on {len(found)} ranks: {len(rows)}"
    chrome.chart(context_stamps.figure(found, trace, dark=chrome.dark()), said, f"{PAGE}.stamps")
    if here.plan.overlap_cp and METHODS[here.plan.cp_method].travels != "nothing":
        st.markdown(
            "A hop is open while this hop's tiles are computed: posted before, awaited after."
        )
    with st.expander("Every stamp"):
        chrome.table(rows)


def crossover(choice: Choice) -> None:
    """Which message is the smaller, which hides: in print and at the reader's sizes."""
    st.header("Keys or queries: the crossover", anchor=False)
    plan = choice.plan
    g, h = plan.model.kv, plan.model.heads
    border = 200 * g / h
    until = "whatever is cached" if border >= 100 else f"up to {border:.4g} % of new tokens (2G/H)"
    st.markdown(
        f"With {h} query and {g} key/value heads a block of queries has no more bytes than its "
        f"keys and values **{until}**; in training all tokens are new. But what pass-Q finds must "
        "come home, hidden by nothing."
    )
    if choice.balance:
        whole, half = context_plans.hides(plan, choice.balance)
        st.markdown(
            f"At {choice.balance:g} FLOPs a byte a hop of keys hides beside a whole tile from "
            f"**{whole:,.0f} tokens** of a sequence, and beside half a tile (zigzag) from "
            f"**{half:,.0f}**."
        )
    report = context_bench.crossover(choice)
    badges = [] if report is None else [context_bench.badge_of(report)]
    figure = context_quoted.crossover(more=badges, dark=chrome.dark())
    if report is not None:
        context_measured.add_ratios(figure, report, dark=chrome.dark())
    chrome.chart(figure, context_quoted.in_words(), f"{PAGE}.crossover")
    st.markdown(context_quoted.in_words())
    if report is not None:
        context_bench.borders(report)
    for name, rows in context_quoted.TABLES.items():
        with st.expander(context_quoted.title(name)):
            chrome.table(rows())
            theme.badge(Kind.QUOTED, context_quoted.caption(name))


def take_away(choice: Choice, here: runs.Kept | None) -> None:
    """The run on both clocks, its ledgers, its command; exports."""
    plan = choice.plan
    if here is not None:
        done = here.done
        shared.whole_step(plan, done, PAGE)
        forget = {"on_click": runs.forget_all, "args": (PAGE,), "type": "tertiary"}
        st.button("Forget my runs", key=f"{PAGE}.forget", **forget)
        chrome.export(done.trace, f"context_{plan.cp_method}", PAGE)
        return
    st.markdown("The same from a terminal:")
    st.code(shared.command(plan, int(choice.values["steps"])), language=None, wrap_lines=True)
    chrome.share(PAGE)

"""What a run of experts brought: over its steps, by rank, in bytes; before one, predictions."""

from __future__ import annotations

import streamlit as st
import theme

from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.request import Request
from parallel_core.trace import Kind
from parallel_core.views import expert_curves as curves
from parallel_core.views import expert_times as times
from parallel_core.views import expert_ways as ways
from parallel_core.views.expert_expected import expected
from parallel_core.views.expert_rows import routing_of, tokens
from parallel_core.views.ledger_bars import ledger_bars
from screens import chrome
from screens import experts_runs as runs
from screens import results as shared
from screens.experts_controls import PAGE
from screens.experts_runs import Ran


def waited_for(here: Ran | None) -> tuple[int | None, str]:
    """The place of the slowest rank's experts among the answers, and how a run shows it."""
    if here is None:
        return None, "A run of yours will show which rank it is."
    found = here.shares()
    last = times.slowest(found)
    mean = sum(share.work_ns for share in found) / len(found)
    why = (
        f"In your run rank {last.rank} had {last.rows:,} of {sum(s.rows for s in found):,} rows "
        f"of a typical step, and its experts took {last.work_ns / mean:.2f} times the mean."
    )
    if last.work_ns < 1.25 * mean:
        return 3, f"{why} That is nearly even: your router leans little, or something evens it."
    return (0 if last.home == 0 else 2 if last.home == here.plan.ep - 1 else 1), why


def proof(here: Ran) -> None:
    """The error against one process, and the run's lengths."""
    st.header("Counted in the run", anchor=False)
    shared.parity(here.kept.done.report["parity"], here.plan.dtype)
    shared.clocks(here.kept.done)


def over_steps(here: Ran | None) -> None:
    """Imbalance, and drops where there are any, step by step."""
    if here is None:
        return
    st.header("Over the steps", anchor=False)
    dark, badge = chrome.dark(), [here.kept.badge]
    said = curves.in_words("This run", here.steps)
    figure = curves.imbalance({"this run": here.steps}, badge, dark=dark)
    chrome.chart(figure, f"Imbalance by step. {said}", f"{PAGE}.imbalance")
    if any(step["dropped"] for step in here.steps):
        figure = curves.dropped({"this run": here.steps}, badge, dark=dark)
        chrome.chart(figure, f"Dropped choices by step. {said}", f"{PAGE}.dropped")
    st.markdown(said)


def slowest_rank(here: Ran | None) -> None:
    """Time of each rank's experts beside their rows, and who waited."""
    if here is None:
        return
    st.header("The slowest rank", anchor=False)
    found = here.shares()
    badge = f"replayed on own devices: {here.kept.badge}"
    figure = times.figure(found, here.plan.ep, badge, dark=chrome.dark())
    rows = "; ".join(f"rank {s.rank} {s.work_ns / 1e6:.3g} ms" for s in found)
    chrome.chart(figure, f"Time of each rank's experts in a step: {rows}", f"{PAGE}.times")
    st.markdown(times.in_words(found))
    chrome.table(times.table(found))
    st.markdown(times.hidden_in_words(found))


def bytes_of_ranks(plan: Plan, here: Ran | None) -> None:
    """What each rank hands to dispatches and combines: predicted from the routing, and counted."""
    st.header("Bytes of the all-to-alls", anchor=False)
    record = expected(plan) if here is None else here.record
    if record is None:
        return
    pairs = ways.handed(record, None if here is None else here.handed)
    ranks = "rows of the routing, forward and backward"
    if here is None:
        badge = "modelled: layer 0 of the first step, from the routing above"
        title = f"Handed over by each rank in one layer and step: {ranks}"
    else:
        badge = f"modelled: from the run's own routing; measured: {here.kept.badge}"
        title = f"Handed over by each rank in the run: {ranks}"
    bars = [
        (f"rank {r}", float(want), None if got is None else float(got))
        for r, (want, got) in enumerate(pairs)
    ]
    st.markdown(f"{title}.")
    told = "; ".join(f"{name} {bytes_text(want)}" for name, want, _ in bars)
    chrome.chart(
        ledger_bars(bars, badge=badge, dark=chrome.dark()), f"{title}: {told}", f"{PAGE}.bytes"
    )
    if here is not None:
        same = all(want == got for want, got in pairs)
        verdict = "They agree to the byte." if same else "They differ."
        st.markdown(f"Predicted from the routing, and counted by the ranks: **{verdict}**")
    st.markdown(
        "A dispatch looks fair: every rank hands over a row for each choice of its own tokens. "
        "The combine behind it is not: the fullest rank hands back what all the others sent."
    )


def ways_to_dispatch(plan: Plan, here: Ran | None) -> None:
    """Copies of a token by every way to dispatch, nodes of the reader's size."""
    st.header("Ways to dispatch", anchor=False)
    sizes = ways.node_sizes(plan.ep)
    node = st.selectbox(
        "Ranks a node", sizes, index=max(len(sizes) - 2, 0), key="node", bind="query-params"
    )
    record = expected(plan) if here is None else here.record
    if record is None:
        return
    first = record.rows[0]
    found = tokens(record, step=first.step, layer=first.layer)
    routing, home = routing_of(found, plan.model.top_k)
    if plan.model.router == "expert-choice":
        routing = routing[:0]  # only those tokens that happen to have k choices: no sample
    theme.badge(Kind.MODELLED, "modelled: copies of a token on its way to experts")
    chrome.table(ways.table(ways.ways(plan, int(node), routing, home)))
    where = "your run's first step" if here else "the routing above"
    st.markdown(
        f"The run sends *flat*, a copy for every choice. *These tokens* are {len(routing):,} of "
        f"{where}. A token that goes to two experts of one rank needs one copy there, and a node "
        "that hands on needs one over the network."
    )


def take_away(request: Request, here: Ran | None) -> None:
    """The run on both clocks, its ledgers, its command; exports."""
    plan = request.plan
    if here is None:
        st.markdown("The same from a terminal:")
        st.code(shared.command(plan, request.steps), language=None, wrap_lines=True)
        chrome.share(PAGE)
        return
    done = here.kept.done
    shared.whole_step(plan, done, PAGE)
    forget = {"on_click": runs.forget_all, "type": "tertiary"}
    st.button("Forget my runs", key=f"{PAGE}.forget", **forget)
    chrome.export(done.trace, f"experts_{plan.model.router}", PAGE)

"""What the context page measures when asked: where pass-Q and pass-KV cross, and bfloat16's error.

A measurement is a job like any run: rank processes do it, it can be cancelled, and it ends when
nobody looks any more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from parallel_core.bench import context_crossover, context_crossover_cases
from parallel_core.jobs import QueueFull, Status
from parallel_core.trace import Kind
from parallel_core.views import context_measured, context_rounding
from screens import chrome, live
from screens.context_ring_controls import PAGE, Choice

ROUNDING = "parallel_core.context.rounding:on_rank"
ERRORS = 12  # rings and types
USUAL = 512.0
"""FLOPs a byte of the slowed wire, where the reader has given none."""

Order = tuple[str, int, dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """A measurement under its own key: its button, its order, how many events it will send."""

    key: str
    label: str
    order: Order
    events: int

    def results(self) -> list[Any] | None:
        """The button, and what follows it: progress, an error, or the ranks' results."""
        name = f"{PAGE}.{self.key}"
        if st.button(self.label, type="primary", key=f"{name}.measure"):
            self._submit(name)
        job = st.session_state.get(name)
        if job is None:
            return None
        try:
            state = live.desk().jobs.state(job)
        except KeyError:
            st.info("That measurement is forgotten by now; measure again.")
            return None
        if not state.status.over:
            follow(job, self.key, self.events)
        elif state.status is Status.DONE:
            return state.results
        else:
            st.error(chrome.sentence(state.error))
        return None

    def _submit(self, name: str) -> None:
        try:
            st.session_state[name] = live.desk().jobs.submit(*self.order)
        except QueueFull as error:
            st.error(chrome.sentence(str(error)))


@st.fragment(run_every=1)
def follow(job: str, key: str, events: int) -> None:
    """Progress and cancel; the whole page again when it is over."""
    context, jobs = get_script_run_ctx(), live.desk().jobs
    jobs.watch(job, context.session_id if context else "")
    state = jobs.state(job)
    if state.status.over:
        st.rerun()
    queued = state.status is Status.QUEUED
    words = f"Waiting: place {state.place} in the queue" if queued else "Measuring"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(min(state.next / max(events, 1), 1.0), text=words)
        if st.button("Cancel", key=f"{PAGE}.{key}.cancel", icon=":material/stop_circle:"):
            jobs.cancel(job)


def crossover(choice: Choice) -> dict[str, Any] | None:
    """Pass-Q beside pass-KV on this machine: the report, when there is one."""
    sweep = context_crossover_cases.Sweep(flops_a_byte=choice.balance or USUAL)
    plan = context_crossover_cases.plan_of()
    st.markdown(
        f"{plan.cp} processes attend to {plan.seq:,} tokens, of which from 1.6 to 100 % are new, "
        "once by pass-KV and once by pass-Q, by turns, with 8, 4, 2 and 1 of 8 key/value heads. "
        f"The wire is slowed to {sweep.flops_a_byte:g} FLOPs a byte, as if it were a network's: "
        "tiles are measured, the link is emulated. About half a minute."
    )
    order = context_crossover_cases.order_of(plan, sweep)
    asked = Asked("crossover", "Measure the crossover here", order, 2 * (sweep.rounds + 1))
    results = asked.results()
    if results is None:
        return None
    given = results[0]["asked"]
    sweep = context_crossover_cases.Sweep(**given)  # of the run, whatever is chosen by now
    return context_crossover.report(plan, sweep, results).as_json()


def borders(report: dict[str, Any]) -> None:
    """Where the times crossed, beside the rules; every case in print."""
    said = context_measured.in_words(report)
    figure = context_measured.borders(report, badge=badge_of(report), dark=chrome.dark())
    chrome.chart(figure, said, f"{PAGE}.borders")
    st.markdown(said)
    for warning in report["warnings"]:
        st.warning(chrome.sentence(warning))
    with st.expander("Every case"):
        chrome.table(context_measured.rows(report))


def badge_of(report: dict[str, Any]) -> str:
    """The badge of a measured crossover."""
    balance = report["settings"]["flops_a_byte"]
    return measured(f"2 ranks over gloo, a link of {balance:g} FLOPs a byte emulated")


def measured(what: str) -> str:
    """The badge of a measurement on this machine."""
    return f"{Kind.MEASURED}: {what}, on {os.cpu_count()} cores"


def rounding() -> None:
    """bfloat16's error against the size of the ring, its sums in two types."""
    st.header("bfloat16, and where its sums are kept", anchor=False)
    st.markdown(
        "Each hop is merged with what was found before. A ring whose sums are kept, and sent, in "
        "the model's bfloat16 rounds at every merge. How far is it from the truth in float64?"
    )
    results = Asked("rounding", "Measure the error", (ROUNDING, 1, {}), ERRORS).results()
    if results is None:
        return
    rows = results[0]
    said = context_rounding.in_words(rows)
    badge = measured("one process plays the ring, 1,024 tokens, full mask")
    figure = context_rounding.figure(rows, badge=badge, dark=chrome.dark())
    chrome.chart(figure, said, f"{PAGE}.rounding.chart")
    st.markdown(f"{said} So every method here merges in float32, whatever the model's type.")

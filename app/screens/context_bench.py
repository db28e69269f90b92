"""What the context page measures: where pass-Q and pass-KV cross, and bfloat16's error."""

from __future__ import annotations

import os
from typing import Any

import streamlit as st

from parallel_core.bench import context_crossover, context_crossover_cases
from parallel_core.trace import Kind
from parallel_core.views import context_measured, context_rounding
from screens import chrome
from screens.context_ring_controls import PAGE, Choice
from screens.measuring import Measurement

ROUNDING = "parallel_core.context.rounding:on_rank"
ERRORS = 12  # rings and types
USUAL = 512.0
"""FLOPs a byte of the slowed wire, where the reader has given none."""


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
    asked = Measurement(
        f"{PAGE}.crossover", "Measure the crossover here", order, 2 * (sweep.rounds + 1)
    )
    taken = asked.taken()
    if taken is None or not taken.results:
        return None
    results = taken.results
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
    asked = Measurement(f"{PAGE}.rounding", "Measure the error", (ROUNDING, 1, {}), ERRORS)
    taken = asked.taken()
    if taken is None or not taken.results:
        return
    rows = taken.results[0]
    said = context_rounding.in_words(rows)
    badge = measured("one process plays the ring, 1,024 tokens, full mask")
    figure = context_rounding.figure(rows, badge=badge, dark=chrome.dark())
    chrome.chart(figure, said, f"{PAGE}.rounding.chart")
    st.markdown(f"{said} So every method here merges in float32, whatever the model's type.")

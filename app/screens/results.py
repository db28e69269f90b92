"""What a finished run shows: is it right, when did what happen, and did the ledgers agree?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st
import theme

from parallel_core.plan import Plan, flat_fields
from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Trace
from parallel_core.views import charts
from parallel_core.views.equality import ROUNDING, in_words, verdict
from screens import chrome
from screens.live import Finished


def show(done: Finished, key: str) -> None:
    """The whole of it, the proof first."""
    parity(done.report["parity"], done.trace.provenance.plan["dtype"])
    clocks(done)
    _played(done, key)
    chrome.chart(
        charts.loss_curve({"this run": done.trace}, dark=chrome.dark()),
        f"Loss by step: {_losses(done.trace)}",
        f"{key}.loss",
    )
    ledgers(done.report, key)
    plan = Plan.of(**done.trace.provenance.plan)
    terminal(plan, done)
    chrome.export(done.trace, f"run_{plan.layout.replace(' ', '_')}", key)


def parity(found: dict[str, Any] | None, dtype: str) -> None:
    """max |parallel - single|, big, and whether rounding explains it."""
    if not found:
        return
    relative, expected = found["max_rel_error"], ROUNDING[dtype]
    parts = [in_words(name, found["steps"]) for name in found["counted"]]
    meaning = (
        f"the largest difference in any of the {found['tensors']} gradients of the first step "
        "(rank 0's, after the sum) from one process that trained the same. Relative error "
        f"{relative:.1e}, over {', '.join(parts[:-1])} and {parts[-1]}. "
    )
    judged = verdict(found, dtype)
    if expected.judged:
        worst = max(judged.judged.values())
        meaning += f"In {' and '.join(expected.judged)} alone: {worst:.1e}. "
    meaning += f"Rounding explains {expected.bound:.1e} there: {expected.why}."
    if expected.after_steps:
        meaning += f" Gradient norms after AdamW's steps may differ by {expected.after_steps:.1e}."
    for one in judged.apart:
        st.error(
            f"A relative error of {one.error:.1e} in {one.what} is more than the {one.bound:.1e} "
            f"that rounding in {dtype} explains."
        )
    theme.verdict(f"max |parallel − single| = {found['max_abs_error']:.2g}", meaning)


def clocks(done: Finished) -> None:
    """The two honest lengths of the run, and its speed."""
    steps = max(len(done.trace.metrics), 1)
    wall, own = done.trace.makespan / steps, done.own.makespan / steps
    speed = done.trace.metrics[-1]["tokens_per_s"] if done.trace.metrics else 0.0
    columns = st.columns(3)
    columns[0].metric(
        "A step by the wall clock", time_text(wall), help="what this machine did, ranks sharing it"
    )
    columns[1].metric(
        "A step on own devices",
        time_text(own),
        help="replayed: each op lasts the CPU time it used itself, each message alpha + bytes/beta",
    )
    columns[2].metric("Speed of the last step", f"{speed:,.0f} tokens/s")


def whole_step(plan: Plan, done: Finished, key: str) -> None:
    """The run on both clocks, its ledgers, its command line."""
    st.header("The whole step", anchor=False)
    _played(done, key)
    ledgers(done.report, key)
    terminal(plan, done)


def _played(done: Finished, key: str) -> None:
    """The run in the player; one step of it under its model."""
    step = step_choice(done.trace, f"{key}.step")
    model = done.model if step is not None else None
    chrome.player(done.trace, key=f"{key}.player", own=done.own, model=model, step=step)


def step_choice(trace: Trace, key: str) -> int | None:
    """Which step to look at, kept in the URL; None for the whole run."""
    steps = trace.steps
    if len(steps) < 2:
        return None
    names = {"whole run": None, **{f"step {number}": number for number in steps}}
    words = list(names)
    chosen = st.selectbox(
        "Look at", words, index=min(2, len(words) - 1), key=key, bind="query-params"
    )
    return names[chosen]


def ledgers(report: dict[str, Any], key: str) -> None:
    """Predicted beside counted, on the wire and in memory, to the byte."""
    st.subheader("The ledgers", anchor=False)
    state, wire = _state(report["ledger"]["memory"]), _wire(report["ledger"]["wire"])
    badge = report["provenance"]["badge"]
    told = "**They agree to the byte.**"
    wrong = [row.name for row in (*state, *wire) if not row.equal]
    if wrong:
        told = f"**They differ in {chrome.plain(', '.join(wrong))}.**"
    steps = max(len(report["steps"]), 1)
    st.markdown(
        "Predicted from the plan alone, and counted in the run, for every rank: its state (drawn: "
        "the fullest rank), and what it sent (drawn: all ranks, a step). " + told
    )
    _bars(state, badge, "State of a rank, bytes", f"{key}.ledger.state")
    each = [replace(row, predicted=row.predicted / steps, measured=row.measured / steps)
            for row in wire]  # fmt: skip
    _bars(each, badge, "Sent by all ranks in a step, bytes", f"{key}.ledger.wire")
    with st.expander("To the byte"):
        names = {True: "state of the fullest rank", False: f"sent by all ranks in {steps} steps"}
        table = [
            {
                "what": f"{row.name}, {names[row in state]}",
                "predicted": f"{row.predicted:,}",
                "measured": f"{row.measured:,}",
                "equal on every rank": "yes" if row.equal else "no",
            }
            for row in (*state, *wire)
        ]
        chrome.table(table)
        _besides(report["ledger"])


def _bars(rows: Sequence[Row], badge: str, title: str, key: str) -> None:
    """One half of the ledger as bars; nothing where nothing was sent."""
    if not rows:
        return
    st.caption(title)
    bars = [(row.name, row.predicted, row.measured) for row in rows]
    figure = charts.ledger_bars(bars, badge=badge, dark=chrome.dark())
    said = (f"{name}: predicted {p:,.0f}, measured {m:,.0f}" for name, p, m in bars)
    chrome.chart(figure, f"{title}. {'; '.join(said)}", key)


@dataclass(frozen=True)
class Row:
    """A line of the ledger: bytes, and whether the two sides are equal on every single rank."""

    name: str
    predicted: float
    measured: float
    equal: bool


def _state(memory: dict[str, Any]) -> list[Row]:
    """What the fullest rank holds, by kind."""
    predicted, measured = memory["predicted"], memory["measured"]
    return [
        Row(kind, max(each), max(measured[kind]), each == measured[kind])
        for kind, each in predicted.items()
    ]


def _wire(wire: dict[str, Any]) -> list[Row]:
    """What all ranks sent, by operation and axis; an operation nobody predicted counts too."""
    none = {"wire_bytes": 0}
    sides = [wire["predicted"], wire["measured"]]
    keys = sorted({(axis, op) for side in sides for axis, ops in side.items() for op in ops})
    rows = []
    for axis, op in keys:
        want, got = (side.get(axis, {}).get(op, none) for side in sides)
        name = f"{op} over {axis}"
        rows.append(Row(name, want["wire_bytes"], got["wire_bytes"], want == got))
    return rows


def _besides(ledger: dict[str, Any]) -> None:
    """What is not compared to the byte, each difference named."""
    kernel = ledger["checks"]["kernel_bytes_written"]
    counted = ledger["wire"]["measured_total_bytes"]
    lines = [f"The kernel's own count of bytes written: {kernel:,} for {counted:,} counted by us."]
    for name in ("activations", "comm_buffers"):
        part = ledger[name]
        differences = part["differences"]
        told = [
            f"{d.get('unit', 'rank ' + str(d.get('rank')))}: {bytes_text(d['bytes'])}, {d['why']}"
            for d in differences
        ]
        lines.append(f"{part['what'].capitalize()}: {'; '.join(told) or 'as predicted'}.")
    st.markdown("\n".join(f"- {line}" for line in lines))


def _losses(trace: Trace) -> str:
    losses = [metric["loss"] for metric in trace.metrics]
    return (
        f"from {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps" if losses else "no step"
    )


def terminal(plan: Plan, done: Finished) -> None:
    """The command line of a finished run."""
    st.markdown("The same run from a terminal:")
    st.code(command(plan, len(done.trace.metrics)), language=None, wrap_lines=True)


def command(plan: Plan, steps: int) -> str:
    """The command line that runs the same: every field that is not at its default.

    >>> command(Plan.of(dp=4, tied=True), 20)
    'shardlab run --dp 4 --tied --steps 20'
    """
    words = ["shardlab run"]
    flat = plan.flat()
    for name, spec in sorted(flat_fields().items(), key=lambda item: item[0] != "dp"):
        if flat[name] == spec.default:
            continue
        flag = "--" + name.replace("_", "-")
        words.append(flag if flat[name] is True else f"{flag} {flat[name]}")
    return " ".join([*words, f"--steps {steps}"])

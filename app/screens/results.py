"""What a finished run shows: is it right, when did what happen, and did the ledgers agree?"""

from __future__ import annotations

from typing import Any

import streamlit as st
import theme

from parallel_core.plan import Plan, flat_fields
from parallel_core.quantities import bytes_text, time_text
from parallel_core.trace import Trace
from parallel_core.views import charts
from screens import chrome
from screens.live import Finished

ROUNDING = {"float32": 1e-5, "float64": 1e-10}
"""The relative error that the order of floating-point sums explains."""


def show(done: Finished, key: str) -> None:
    """The whole of it, the proof first."""
    parity(done.report["parity"], done.trace.provenance.plan["dtype"])
    clocks(done)
    step = step_choice(done.trace, f"{key}.step")
    model = done.model if step is not None else None
    chrome.player(done.trace, key=f"{key}.player", own=done.own, model=model, step=step)
    chrome.chart(
        charts.loss_curve({"this run": done.trace}, dark=chrome.dark()),
        f"Loss by step: {_losses(done.trace)}",
        f"{key}.loss",
    )
    ledgers(done.report, key)
    plan = Plan.of(**done.trace.provenance.plan)
    st.caption("The same run from a terminal:")
    st.code(command(plan, len(done.trace.metrics)), language="bash", wrap_lines=True)
    chrome.export(done.trace, f"run_{plan.layout.replace(' ', '_')}", key)


def parity(found: dict[str, Any] | None, dtype: str) -> None:
    """max |parallel - single|, big, and whether rounding explains it."""
    if not found:
        return
    relative, bound = found["max_rel_error"], ROUNDING.get(dtype)
    compared = f"{' and '.join(found['counted'])} of {found['steps']} steps"
    meaning = (
        f"the largest difference in any of the {found['tensors']} gradients from one process that "
        f"trained the same; relative error {relative:.1e} over {compared}."
    )
    if bound is not None and relative > bound:
        st.error(
            f"A relative error of {relative:.1e} is more than the rounding of {dtype} explains."
        )
    elif bound is not None:
        meaning += f" The order of {dtype} sums explains that much."
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
    rows = _rows(report["ledger"])
    badge = report["provenance"]["badge"]
    wrong = [name for name, predicted, measured in rows if predicted != measured]
    st.markdown(
        "Predicted from the plan alone, and counted in the run: the state of one rank, and what "
        "all ranks sent in all steps. "
        + (f"**They differ in {', '.join(wrong)}.**" if wrong else "**They agree to the byte.**")
    )
    figure = charts.ledger_bars(rows, badge=badge, dark=chrome.dark())
    said = "; ".join(f"{name}: predicted {p:,}, measured {m:,} bytes" for name, p, m in rows)
    chrome.chart(figure, said, f"{key}.ledger")
    with st.expander("To the byte"):
        table = [
            {
                "what": name,
                "predicted": f"{p:,}",
                "measured": f"{m:,}",
                "equal": "yes" if p == m else "no",
            }
            for name, p, m in rows
        ]
        chrome.table(table)
        _besides(report["ledger"])


def _rows(ledger: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(label, predicted, measured): state of one rank, and the wire of all ranks together."""
    memory, wire = ledger["memory"], ledger["wire"]
    rows = [
        (kind, max(memory["predicted"][kind]), max(memory["measured"][kind]))
        for kind in memory["predicted"]
    ]
    for axis, ops in wire["predicted"].items():
        for op, predicted in ops.items():
            measured = wire["measured"].get(axis, {}).get(op, {"wire_bytes": 0})
            rows.append((f"{op} over {axis}", predicted["wire_bytes"], measured["wire_bytes"]))
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

"""What a run of the loom brought, beside what was predicted, and the layouts side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st
import theme

from parallel_core.fields import PlanError
from parallel_core.loom.figures import figures, fitted, modelled
from parallel_core.loom.request import LoomRequest
from parallel_core.loom.weave import PATTERNS
from parallel_core.loom.words import place
from parallel_core.quantities import bytes_text, time_text
from screens import SCREENS, chrome
from screens import tensor_loom_runs as runs

__all__ = ["bytes_text", "compared", "counted", "in_time", "whole_model"]


def counted(done: runs.Kept) -> None:
    """The error against one process; messages, bytes and FLOPs, predicted and counted."""
    st.header("Counted in the run", anchor=False)
    report = done.report
    worst = max(report["errors"].items(), key=lambda item: item[1]["max_abs"])
    name, error = worst
    theme.verdict(
        f"max |parallel − single| = {error['max_abs']:.3g}",
        f"{name}, whose largest element is {error['largest']:.3g} in one process; "
        + ("equal, but for the order of additions." if report["kept"] else "not the same result."),
    )
    if not report["kept"]:
        st.error(
            "The messages and the bytes are those of the right order, and nothing failed: only "
            "the numbers are wrong. Look at the marked cells, or press 'Row, then column'."
        )
    boxes = st.columns(4)
    boxes[0].metric("Messages, forward", report["messages"]["measured"][0])
    boxes[1].metric("Messages, backward", report["messages"]["measured"][1])
    boxes[2].metric("Left all ranks", bytes_text(report["wire_bytes"]["measured"]))
    boxes[3].metric("Time, median", time_text(1e9 * report["seconds"]))
    chrome.table(_messages(done))
    word = "**equal**" if report["agree"] else "**different**"
    st.markdown(f"Everything below, predicted from the program and counted in the run: {word}.")
    with st.expander("Predicted beside counted"):
        chrome.table(_rows(report))


def _messages(done: runs.Kept) -> list[dict[str, Any]]:
    """A row a message; one that says so where there is none."""
    weave, report = done.request.weave, done.report
    rows = []
    for half, way in enumerate(("forward", "backward")):
        for step, sent in zip(weave.moves[half], report["sent"][half], strict=True):
            rows.append(
                {
                    "where": f"{way}: {place(weave, step)}",
                    "message": f"{sent['op']} {sent['before']} -> {sent['after']}",
                    "a rank hands over": bytes_text(sent["payload"]),
                    "leaves all ranks": bytes_text(sent["wire"]),
                }
            )
    return rows or [{"where": "forward: nowhere", "message": "nothing is sent"}]


def _rows(report: dict[str, Any]) -> list[dict[str, str]]:
    rows = []
    for half, way in enumerate(("forward", "backward")):
        pairs = {
            f"messages, {way}": [str(side[half]) for side in report["messages"].values()],
            f"bytes handed over, {way}": [
                f"{side[half]:,}" for side in report["payload_bytes"].values()
            ],
        }
        rows += [_row(what, both) for what, both in pairs.items()]
    rows.append(
        _row("bytes that leave all ranks", [f"{n:,}" for n in report["wire_bytes"].values()])
    )
    rows.append(_row("FLOPs of a rank", [f"{each[0]:,}" for each in report["flops"].values()]))
    for name in report["bytes"]["predicted"]:
        both = [f"{side[name]:,}" for side in report["bytes"].values()]
        rows.append(_row(f"bytes of {report['layouts'][name]}", both))
    return rows


def _row(what: str, both: list[str]) -> dict[str, str]:
    return {
        "of rank 0": what,
        "predicted": both[0],
        "counted": both[1],
        "equal": "yes" if both[0] == both[1] else "NO",
    }


def compared(request: LoomRequest) -> None:
    """Every layout at these sizes: what a rank sends, holds and computes."""
    st.header("Every layout at this size", anchor=False)
    sends, holds = [], []
    for name in PATTERNS:
        try:
            each = replace(request, layout=name)
        except PlanError as error:
            sends.append({"layout": name, "messages": f"{error.field} {error.rule}"})
            continue
        found, done = figures(each), runs.find(each)
        ran = "not run yet" if done is None else f"{done.report['max_abs_error']:.3g}"
        sends.append(
            {
                "layout": name,
                "messages": _both(*map(str, found.messages), request),
                "leaves all ranks": _both(*map(bytes_text, found.wire), request),
                "error, measured": ran,
            }
        )
        holds.append(
            {
                "layout": name,
                "weights of a rank": bytes_text(found.weight_bytes),
                "result of a rank": bytes_text(found.output_bytes),
                "FLOPs of a rank": f"{found.flops:,}",
            }
        )
    # two tables: one would have to scroll sideways on a phone
    chrome.table(sends)
    chrome.table(holds)
    way = "forward + backward" if request.backward else "forward"
    st.caption(f"Predicted from the programs ({way}); the error is that of your own latest run.")


def _both(forward: str, backward: str, request: LoomRequest) -> str:
    return f"{forward} + {backward}" if request.backward else forward


def in_time(request: LoomRequest, done: runs.Kept | None) -> None:
    """The run on the clock, under the model's outlines; before a run the model alone."""
    st.header("In time", anchor=False)
    if done is None:
        model = modelled(request)
        chrome.player(model, key="loom.player", title=model.provenance.title)
        return
    title = f"{request.layout}, run #{done.number}"
    model = fitted(request, done.trace)
    chrome.player(done.trace, key="loom.player", title=title, run=done.name, model=model)
    if request.backward:
        st.markdown(
            "The gradient of the weights needs no message: it runs while the gradient of the "
            "input is on its way."
        )


def whole_model() -> None:
    """The way on, to a whole transformer cut like this."""
    st.header("A whole transformer", anchor=False)
    st.markdown(
        "A transformer layer is this region twice: attention (the heads are the columns) and the "
        "MLP, each with its f and its g. So a layer all-reduces twice forward and twice backward."
    )
    river = next((screen for screen in SCREENS if screen.module == "memory_river"), None)
    if river is not None and river.exists:
        st.markdown(
            f"[Train one with tp=2 on real processes]({river.path}?tp=2), and see what cutting "
            f"leaves in memory; [with sequence parallelism]({river.path}?tp=2&sp=true) as well."
        )
    st.code("shardlab run --tp 2 --steps 5", language=None)

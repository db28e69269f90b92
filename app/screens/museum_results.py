"""What a visit to the bug museum shows: who noticed, by how much, which tensors, and the source."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st
import theme

from parallel_core.museum.exhibit import PROBE
from parallel_core.museum.words import copies, divergence, witness_rows
from parallel_core.views import museum as view
from screens import chrome
from screens import museum_runs as runs

SAYS = {"adamw": "AdamW", "sgd": "SGD"}
WHY_TWO = (
    "AdamW divides each gradient by its own size, so a factor that stays the same cancels; SGD "
    "steps as far as the gradient says."
)


def show(done: runs.Kept) -> None:
    """The whole of it, the probe's verdict first."""
    report, exhibit = done.report, done.visit.exhibit
    first = report["optimizers"]["adamw"]
    _verdict(first)
    st.markdown(f"{divergence(first)} {copies(first)}".rstrip())
    for optimizer, found in report["optimizers"].items():
        _optimizer(optimizer, found, report["provenance"]["badge"])
    st.markdown(WHY_TWO)
    _probe(first, report["provenance"]["badge"])
    st.header("Cure, and where it was met", anchor=False)
    st.markdown(f"**What the probe says.** {exhibit.shows}")
    st.markdown(f"**Cure.** {exhibit.cure}")
    st.markdown(
        f"**Where it sleeps.** With {exhibit.sleeps} the very same code is right, and every test "
        "on that layout passes."
    )
    for source in exhibit.sources:
        st.markdown(f"- [{source.name}]({source.url}): {source.said}")
    st.caption("The same from a terminal:")
    st.code(done.visit.command(), language=None, wrap_lines=True)
    with st.container(horizontal=True):
        st.download_button(
            "Report, JSON",
            lambda: json.dumps(report, indent=1),
            f"museum_{done.visit.bug}.json",
            "application/json",
            on_click="ignore",
            icon=":material/download:",
        )
        chrome.share("museum")
        forget: dict[str, Any] = {"on_click": runs.forget_all, "type": "tertiary"}
        st.button("Forget my visits", key="museum.forget", **forget)


def _verdict(found: dict[str, Any]) -> None:
    one = found["witnesses"][PROBE]
    theme.verdict(
        f"probe: {one['planted']:.2g} with the bug, {one['right']:.1g} without",
        "the largest relative difference from one process that trained the same: losses and "
        "gradient norms of three steps, every gradient of the first, the weights after the third. "
        f"Rounding in float64 explains {one['bound']:.0e}.",
    )


def _optimizer(optimizer: str, found: dict[str, Any], badge: str) -> None:
    """Two curves of three trainings, and the table of witnesses."""
    st.header(f"Trained with {SAYS[optimizer]}", anchor=False)
    chrome.table(witness_rows(found))
    places = st.columns(2)
    for place, key in zip(places, view.AXES, strict=True):
        with place:
            figure = view.curves(found["curves"], key, badge=badge, dark=chrome.dark())
            chrome.chart(figure, view.told(found["curves"], key), f"museum.{optimizer}.{key}")


def _probe(found: dict[str, Any], badge: str) -> None:
    """Tensor by tensor."""
    st.header("The probe, tensor by tensor", anchor=False)
    bound = found["witnesses"][PROBE]["bound"]
    figure = view.probe(found["tensors"], bound, badge=badge, dark=chrome.dark())
    chrome.chart(figure, view.told_probe(found["tensors"], bound), "museum.probe")
    with st.expander("In print"):
        right, planted = found["tensors"].values()
        rows = [
            {
                "tensor": b["name"],
                "without the bug": f"{a['error']:.1e}",
                "with it": f"{b['error']:.1e}",
                "times the right one": f"{b['factor']:.4f}",
            }
            for a, b in zip(right, planted, strict=True)
        ]
        chrome.table(rows, first=40)

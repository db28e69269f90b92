"""What the reader chooses on the loom page, and the sentence for what cannot be."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import streamlit as st

from parallel_core.fields import PlanError, parse
from parallel_core.loom.request import LoomRequest
from parallel_core.loom.weave import PATTERNS
from screens import chrome

BOUND = "query-params"
SPECS = {spec.name: spec for spec in fields(LoomRequest)}
MOST_RANKS = 16
WORDS = {
    "layout": "Layout",
    "ranks": "Ranks",
    "n": "n, rows of X",
    "k": "k, columns of X",
    "m": "m, inside",
    "d": "d, columns of B",
    "act": "Nonlinearity",
    "sp": "Sequence parallel",
    "backward": "With the way back",
    "numbers": "Numbers",
}
SMALL = {"n": 4, "k": 4, "m": 8, "d": None, "ranks": 4, "numbers": "integers", "sp": False}
LARGE = {"n": 256, "k": 4096, "m": 4096, "d": None, "ranks": 4, "numbers": "normal", "sp": False}
PRESETS: dict[str, dict[str, Any]] = {
    "One matrix, by columns": {**SMALL, "layout": "column"},
    "One matrix, by rows": {**SMALL, "layout": "row"},
    "Column, then row": {**SMALL, "layout": "column-row"},
    "Row, then column": {**SMALL, "layout": "row-column"},
    "The sum too late": {**SMALL, "layout": "late-sum"},
    "4096 × 4096, by columns": {**LARGE, "layout": "column"},
    "4096 × 4096, by rows": {**LARGE, "layout": "row"},
}


def choose() -> LoomRequest | None:
    """The controls; None after the sentence that says what cannot be, and what can."""
    chosen: dict[str, Any] = {}
    places = st.columns(4)
    for at, name in enumerate(("layout", "ranks", "act", "numbers")):
        with places[at]:
            chosen[name] = _field(name)
    with st.container(horizontal=True):
        chosen["sp"], chosen["backward"] = _field("sp"), _field("backward")
    with st.expander("Sizes"):
        places = st.columns(4)
        for at, name in enumerate(("n", "k", "m", "d")):
            with places[at]:
                chosen[name] = _field(name)
    with st.container(horizontal=True):
        for name, preset in PRESETS.items():
            st.button(name, key=f"loom.{name}", on_click=_take, args=(preset,))
    try:
        return LoomRequest(**chosen)
    except PlanError as error:
        chrome.complain(error, mend=error.field in chosen)
        return None


def picked(request: LoomRequest, *, numbers: bool) -> tuple[int | None, tuple[int, int]]:
    """The rank to look at (None: all of them) and the cell whose arithmetic is written out."""
    places = st.columns([3, 1, 1])
    names = ["all", *map(str, range(request.ranks))]
    with places[0]:
        _drop("rank", names)
        rank = st.segmented_control(
            "Fill the blocks of rank", names, default="all", required=True, key="rank", bind=BOUND
        )
    cell = (0, 0)
    if numbers:
        with places[1]:
            row = st.number_input("Row of the cell", 0, 255, 0, 1, key="row", bind=BOUND)
        with places[2]:
            column = st.number_input("Its column", 0, 255, 0, 1, key="column", bind=BOUND)
        cell = (int(row), int(column))
    return (None if rank in (None, "all") else int(rank)), cell


def _take(preset: dict[str, Any]) -> None:
    st.session_state.update(preset)


def _drop(name: str, options: list[str]) -> None:
    """Forget a value, from the URL or from other choices, that is none of the options now."""
    if str(st.session_state.get(name, "all")) not in options:
        del st.session_state[name]
    if st.query_params.get(name, options[0]) not in options:
        del st.query_params[name]


def _field(name: str) -> Any:
    """The widget of one field of the request, its value in the URL."""
    spec = SPECS[name]
    _refuse_nonsense(name)
    meta, label = spec.metadata, WORDS[name]
    common = {"key": name, "help": meta["help"], "bind": BOUND}
    if meta["kind"] is bool:
        return st.toggle(label, value=bool(spec.default), **common)
    if "choices" in meta:
        words = list(meta["choices"])
        if name == "layout":
            common["help"] = "; ".join(f"{key}: {p.words}" for key, p in PATTERNS.items())
        return st.selectbox(label, words, index=words.index(str(spec.default)), **common)
    high = MOST_RANKS if name == "ranks" else meta["high"]
    default = None if spec.default is None else int(spec.default)
    low = int(meta["low"])
    return st.number_input(label, low, high, default, 1, placeholder="as k", **common)


def _refuse_nonsense(name: str) -> None:
    """Say why a value typed into the URL is not taken; Streamlit drops it without a word."""
    if name in st.session_state or name not in st.query_params:
        return
    try:
        value = parse(SPECS[name], st.query_params[name])
        if name == "ranks" and value > MOST_RANKS:
            raise PlanError(name, value, f"must be at most {MOST_RANKS} on this page", MOST_RANKS)
    except PlanError as error:
        st.error(chrome.plain(f"In the address: {error}. The default is used instead."))
        del st.query_params[name]

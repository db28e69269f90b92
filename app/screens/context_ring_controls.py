"""What the reader chooses on the context page: a plan, and what only the figure has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from parallel_core.context import METHODS
from parallel_core.plan import Plan
from parallel_core.views.context_clock import Clock
from parallel_core.views.context_plans import shape_of
from screens import chrome

PAGE = "context"
MAIN = ("cp", "cp_method", "ulysses", "seq", "heads", "kv_heads", "overlap_cp", "steps")
MORE = ("layers", "hidden", "global_batch", "microbatches", "dp", "tp", "vocab", "dtype")
DEFAULTS = {"cp": 4, "seq": 256, "heads": 8, "layers": 2, "global_batch": 2, "steps": 6}
MASKS, CUTS = ("causal", "full"), ("as the method", "contiguous", "zigzag")
PRESETS: dict[str, dict[str, Any]] = {
    "Contiguous ring": {"cp_method": "ring"},
    "Zigzag ring": {"cp_method": "zigzag"},
    "Pass-Q": {"cp_method": "pass-q"},
    "All-gather KV": {"cp_method": "allgather", "overlap_cp": True},
    "Ulysses": {"cp_method": "ulysses", "overlap_cp": True},
    "Ulysses × ring": {"cp_method": "hybrid"},
}
FEW_HEADS = PRESETS["Ulysses"] | {"cp": 4, "heads": 2, "kv_heads": None, "ulysses": None}
"""The failure a reader can reach: more ranks than heads."""
MOST_RANKS = 16


@dataclass(frozen=True)
class Choice:
    """A plan and its steps; how the figure is masked and cut, and what a byte costs there."""

    values: dict[str, Any]
    plan: Plan
    mask: str
    cut: str
    balance: float

    @property
    def clock(self) -> Clock:
        """The layer's forward, as it is drawn."""
        zigzag = None if self.cut == CUTS[0] else self.cut == "zigzag"
        return Clock(
            method=self.plan.cp_method,
            shape=shape_of(self.plan, self.plan.cp_method, zigzag=zigzag),
            causal=self.mask == "causal",
            balance=self.balance,
            overlap=self.plan.overlap_cp,
        )

    @property
    def runs(self) -> bool:
        """Whether a run would do what is drawn."""
        usual = METHODS[self.plan.cp_method].zigzag
        same = self.cut in (CUTS[0], "zigzag" if usual else "contiguous")
        return same and self.mask == "causal"


def choose() -> Choice | None:
    """The controls; None after the sentence that says what cannot be, and what can."""
    with st.container(horizontal=True):
        for name, fields in PRESETS.items():
            st.button(
                name, key=f"{PAGE}.{name}", on_click=_take, args=({"ulysses": None} | fields,)
            )
        st.button("More ranks than heads", key=f"{PAGE}.few", on_click=_take, args=(FEW_HEADS,))
    values = chrome.plan_controls(MAIN, defaults=DEFAULTS)
    with st.expander("The figure's mask, cut and wire"):
        mask, cut, balance = _figure()
    with st.expander("Model, batch, other axes, types"):
        values |= chrome.plan_controls(MORE, defaults=DEFAULTS)
    rest = {name: value for name, value in values.items() if name != "steps"}
    plan = chrome.plan(rest)
    if plan is None:
        return None
    if not 2 <= plan.cp <= MOST_RANKS:
        st.info(f"This page cuts a sequence over 2 to {MOST_RANKS} ranks: take such a cp.")
        return None
    return Choice(values, plan, mask, cut, balance)


def _figure() -> tuple[str, str, float]:
    places = st.columns(3)
    shared: dict[str, Any] = {"required": True, "bind": "query-params"}
    with places[0]:
        mask = st.segmented_control("Mask", MASKS, default=MASKS[0], key="mask", **shared)
    with places[1]:
        cut = st.segmented_control("Cut", CUTS, default=CUTS[0], key="cut", **shared)
    with places[2]:
        balance = st.number_input(
            "FLOPs while a byte is sent", 0.0, 1e6, 0.0, 100.0, key="balance", format="%g",
            bind="query-params",
            help="0: messages take no time. 1,040: an A100 with NVLink. 16,000: an H100 with "
            "400 Gb/s. The longer the sequence, the more tiles hide.",
        )  # fmt: skip
    return str(mask), str(cut), float(balance)


def _take(fields: dict[str, Any]) -> None:
    st.session_state.update(fields)

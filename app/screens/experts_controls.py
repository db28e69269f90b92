"""What the reader chooses on the experts' page: a plan, by presets or field by field."""

from __future__ import annotations

from typing import Any

import streamlit as st

from parallel_core.expert_rules import EXPERT_FIELDS
from parallel_core.plan import Balance, Plan, RouterKind, flat_fields
from parallel_core.request import Request
from screens import chrome

PAGE = "experts"
MAIN = ("experts", "top_k", "ep", "dp", "skew", "router", "balance", "steps")
FOLLOWS = {
    "capacity": ("router", (RouterKind.CAPACITY, RouterKind.EXPERT_CHOICE)),
    "bias_rate": ("balance", (Balance.BIAS,)),
    "aux_loss": ("balance", (Balance.AUX,)),
}
"""Fields that say something only where another one has such a value; hidden otherwise."""
ROUTING = ("score", "shared_experts", "z_loss", "expert_groups", "group_limit")
MORE = ("layers", "hidden", "seq", "global_batch", "microbatches", "lr", "dtype", "seed",
        "tp", "cp", "pp", "schedule")  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "experts": 8, "top_k": 2, "ep": 4, "dp": 4, "skew": 0.5, "layers": 2, "hidden": 128,
    "seq": 128, "global_batch": 8, "steps": 12, "lr": 1e-4, "bias_rate": 0.01, "aux_loss": 0.5,
    "capacity": 1.0,
}  # fmt: skip
MOST_RANKS, MOST_TOKENS = 16, 1 << 16

_PLAIN = {
    "router": "dropless", "balance": "none", "experts": 8, "top_k": 2, "ep": 4, "dp": 4, "pp": 1,
    "microbatches": 1, "schedule": "1f1b", "expert_groups": 1, "group_limit": None,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "One rank flooded": {"skew": 0.5},
    "Capacity 1.0": {"skew": 0.5, "router": "capacity", "capacity": 1.0},
    "A bias balances": {"skew": 0.5, "balance": "bias"},
    "A loss balances": {"skew": 0.5, "balance": "aux"},
    "Experts choose": {"skew": 0.5, "router": "expert-choice", "capacity": 1.0},
    "16 experts, 2 groups of 4": {"skew": 0.2, "experts": 16, "expert_groups": 4, "group_limit": 2},
    "DualPipe hides it": {"skew": 0.2, "ep": 2, "dp": 2, "pp": 2, "schedule": "dualpipe",
                          "microbatches": 4},
    "6 experts on 4 ranks": {"skew": 0.5, "experts": 6},
}  # fmt: skip
"""The last is a failure a reader can reach: experts that cannot be dealt out."""


def choose() -> Request | None:
    """The controls; None after the sentence that says what cannot be, and what can."""
    with st.container(horizontal=True):
        for name, fields in PRESETS.items():
            st.button(name, key=f"{PAGE}.{name}", on_click=_take, args=(_PLAIN | fields,))
    values = chrome.plan_controls(MAIN, defaults=DEFAULTS)
    follows = [name for name, (of, words) in FOLLOWS.items() if values[of] in words]
    if follows:
        values |= chrome.plan_controls(follows, defaults=DEFAULTS)
    with st.expander("Scores, shared experts, groups that a token may reach"):
        values |= chrome.plan_controls(ROUTING, defaults=DEFAULTS)
    with st.expander("Model, batch, other axes, types"):
        values |= chrome.plan_controls(MORE, defaults=DEFAULTS)
    request = chrome.request(values)
    if request is None or not fits(request.plan):
        return None
    return request


def fits(plan: Plan) -> bool:
    """Whether the page has something to show of this plan; else says what to take."""
    if not 2 <= plan.ep <= MOST_RANKS:
        st.info(f"This page shares experts out over 2 to {MOST_RANKS} ranks: take such an ep.")
        return False
    if plan.tokens_per_step > MOST_TOKENS:
        st.info(f"This page follows {MOST_TOKENS:,} tokens a step: take fewer sequences.")
        return False
    return True


def plain(plan: Plan) -> Plan:
    """The same experts with nothing that keeps them even: every choice has a place."""
    usual = {name: flat_fields()[name].default for name in EXPERT_FIELDS}
    kept = {"top_k", "score", "shared_experts", "z_loss", "expert_groups", "group_limit", "skew"}
    return plan.but(**{name: value for name, value in usual.items() if name not in kept})


def _take(fields: dict[str, Any]) -> None:
    st.session_state.update(fields)

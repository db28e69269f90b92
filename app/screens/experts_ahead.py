"""Experts that wait on the host and copies that leave early, on the reader's own routing."""

from __future__ import annotations

import streamlit as st
import theme

from parallel_core.trace import Kind
from parallel_core.views import expert_ahead as view
from screens import chrome
from screens.experts_runs import Ran


def ahead(here: Ran | None) -> None:
    """Buffers of a rank that keeps its experts on the host; copies sent on a guess."""
    if here is None:
        return
    st.header("On the host, and ahead of time", anchor=False)
    rank = st.selectbox(
        "Experts of rank", range(here.plan.world_size), key="host_rank", bind="query-params"
    )
    loads, weighs = view.used(here.record, int(rank)), view.weighs(here.plan)
    _, layers, each = loads.shape
    theme.badge(Kind.MODELLED, f"modelled: on measured routing; {here.kept.badge}")
    st.markdown(
        f"If rank {rank} kept its experts, {each} in each of {layers} layers, on the host and a "
        "few on the device, those used last (LRU) or those needed next (Belady, who knows the "
        "future): a step touches what its tokens chose on the way forward and once more, in "
        "reverse, on the way back. Bytes are those of bf16 weights, float32 gradients and Adam's "
        "state, a step. The run does neither this nor what follows: its experts stay, its tokens "
        "wait for the router."
    )
    chrome.table(view.held_table(view.held(loads, view.sizes_of(loads), weighs)))
    found = view.early(here.record)
    if not found:
        st.markdown("No guesses: it takes two steps, and tokens that choose their experts.")
        return
    st.markdown(
        "Copies sent before the router speaks, to ranks that a guess names, from the second step "
        f"on; the tokens told one by one ({view.history(here.record)[0].shape[2]} a layer and "
        "step), one copy for each other rank that a token visits:"
    )
    chrome.table(view.early_table(found))

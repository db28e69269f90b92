"""The parts every page shares: title, badge, player, text account, exports, link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

import theme
from parallel_core import places
from parallel_core.exports import chrome_trace
from parallel_core.trace import Trace
from parallel_core.views import player as player_view

from screens.controls import complain, plan, plan_controls
from screens.predict import Guess, predict, reveal

__all__ = [
    "Guess",
    "account",
    "badge",
    "complain",
    "export",
    "header",
    "plan",
    "plan_controls",
    "player",
    "predict",
    "reveal",
    "share",
]


def header(title: str, lead: str) -> None:
    """The page's title and the one sentence that says what it is for."""
    st.title(title, anchor=False)
    theme.lead(lead)


def badge(trace: Trace) -> None:
    """Where the marks of `trace` come from."""
    theme.badge(trace.kind, trace.provenance.badge)


def player(trace: Trace, *, own: Trace | None = None, model: Trace | None = None, key: str, title: str = "") -> Any:
    """Mount the player on `trace`; `own` is its own-device clock, `model` its prediction."""
    data = player_view.payload(trace, own=own, model=model, title=title)
    return mount(data, key)


def mount(data: dict[str, Any], key: str) -> Any:
    """Mount the player on a payload; the same key keeps its playhead while the data grows."""
    component = st.components.v2.component("shardlab_player", js=_source())
    return component(key=key, data=data)


@st.cache_data(show_spinner=False)
def _source() -> str:
    return (places.assets() / "player.js").read_text(encoding="utf-8")


def account(trace: Trace) -> None:
    """The trace in words, for those who cannot see or do not want the picture."""
    with st.expander("In words"):
        st.markdown(player_view.account(trace))


def export(trace: Trace, name: str, key: str) -> None:
    """Downloads: for ui.perfetto.dev, and our own JSON; made only when asked for."""
    with st.container(horizontal=True):
        _download("Perfetto (Chrome JSON)", lambda: chrome_trace(trace), f"{name}.perfetto.json", f"{key}.perfetto")
        _download("ShardLab JSON", trace.to_json, f"{name}.json", f"{key}.json")
        share(key)


def _download(label: str, make: Callable[[], str], file_name: str, key: str) -> None:
    st.download_button(
        label, make, file_name, "application/json", key=key, on_click="ignore", icon=":material/download:"
    )


def share(key: str) -> None:
    """The address of what is on screen; everything chosen on the page stands in it."""
    with st.popover("Link", icon=":material/link:", key=f"{key}.link"):
        st.caption("Opens this page with these choices on a machine where ShardLab runs.")
        query = "&".join(f"{name}={value}" for name, value in st.query_params.items())
        st.code((st.context.url or "") + (f"?{query}" if query else ""), language=None, wrap_lines=True)

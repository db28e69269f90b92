"""The parts every page shares: title, badge, player, charts, tables, exports, link."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
import theme

from parallel_core.exports import chrome_json
from parallel_core.trace import Trace
from parallel_core.views import player as player_view
from screens.controls import complain, plain, plan, plan_controls, request, sentence
from screens.predict import Guess, commit, predict, reveal, settle

__all__ = [
    "Guess",
    "badge",
    "chart",
    "commit",
    "complain",
    "dark",
    "export",
    "header",
    "plain",
    "plan",
    "plan_controls",
    "player",
    "predict",
    "request",
    "reveal",
    "sentence",
    "settle",
    "share",
    "table",
]


def header(title: str, lead: str) -> None:
    """The page's title and the one sentence that says what it is for."""
    st.title(title, anchor=False)
    theme.lead(lead)


def badge(trace: Trace) -> None:
    """Where the marks of `trace` come from."""
    theme.badge(trace.kind, trace.provenance.badge)


def dark() -> bool:
    """Whether the reader's theme is dark; charts need to know, the player sees it by itself."""
    return bool(st.context.theme.type == "dark")


def player(trace: Trace, *, key: str, **view: Any) -> None:
    """Mount the player on `trace`; `view` is what views.player.payload takes (own, model, step...).

    It carries the badge and the account in words itself. The same key keeps its playhead while
    the picture of one `run` grows.
    """
    data = json.dumps(player_view.payload(trace, **view), separators=(",", ":"))
    component = st.components.v2.component(
        "shardlab_player", html='<div id="player"></div>', js=player_view.source()
    )
    component(key=key, data=data.encode(), on_picked_change=lambda: None)


def chart(figure: go.Figure, alt: str, key: str) -> None:
    """A Plotly figure of views/charts.py, with its sentence for those who cannot see it."""
    st.plotly_chart(figure, theme=None, key=key, alt=alt, config={"displaylogo": False})


def table(rows: list[dict[str, Any]], *, first: int = 12, height: int = 320) -> None:
    """Rows as a table that can be read aloud; a long one as a grid that scrolls."""
    if len(rows) <= first:
        st.table(pd.DataFrame(rows).style.format(precision=3, thousands=",", na_rep=""))
    else:
        st.dataframe(rows, height=height, hide_index=True)


def export(trace: Trace, name: str, key: str) -> None:
    """Downloads, made only when asked for: for ui.perfetto.dev, our own JSON, and the link."""
    with st.container(horizontal=True):
        _download(
            "Perfetto", lambda: chrome_json(trace), f"{name}.perfetto.json", f"{key}.perfetto"
        )
        _download("ShardLab JSON", trace.to_json, f"{name}.json", f"{key}.json")
        share(key)


def _download(label: str, make: Callable[[], str], file_name: str, key: str) -> None:
    st.download_button(
        label,
        make,
        file_name,
        "application/json",
        key=key,
        on_click="ignore",
        icon=":material/download:",
    )


def share(key: str) -> None:
    """The address of what is on screen; everything chosen on the page stands in it."""
    with st.popover("Link", icon=":material/link:", key=f"{key}.link"):
        st.caption("Opens this page with these choices where ShardLab runs at this address.")
        query = urlencode(st.query_params.to_dict())
        st.code((st.context.url or "") + (f"?{query}" if query else ""), language=None)


def laid_out(instructions: int, most: int) -> bool:
    """Whether a step is small enough for a page that lays out `most` instructions; else says so."""
    if instructions <= most:
        return True
    st.info(
        f"This step has about {instructions:,} instructions; the page lays out {most:,}. "
        "Take fewer ranks, microbatches or layers."
    )
    return False

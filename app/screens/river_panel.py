"""What the two rivers of memory share: rank, step and cursor, the chart, the player below it."""

from __future__ import annotations

from functools import partial
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from parallel_core.plan import Plan
from parallel_core.trace import Trace
from parallel_core.views.marks import ms, origin_of, typical_step
from parallel_core.views.river_moments import Moment, moments
from screens import chrome, shard_bench_pair
from screens.shard_bench_runs import Kept, modelled, program

MIB = 2**20
AT = "at"
"""The instruction looked at, in the session and in the URL."""


def ask_capacity() -> None:
    """What a rank can hold, if the reader says so."""
    st.number_input(
        "Capacity of a rank, MiB", 0.01, 1e6, value=None, key="capacity_mib", format="%g",
        bind="query-params", placeholder="no limit",
        help="a line in the figures; a plan whose peak is above it runs out of memory",
    )  # fmt: skip


def capacity() -> float | None:
    """The bytes that a rank can hold; None without a limit."""
    said: float | None = st.session_state.get("capacity_mib")
    return None if said is None else said * MIB


def follow_player(page: str, run: Kept | None, plan: Plan, trace: Trace) -> None:
    """An instruction picked in the page's player moves rank, step and cursor of the river."""
    held = st.session_state.get(_player_key(page, run)) or {}
    picked = held.get("picked") or {}
    rank, step, at = (picked.get(name) for name in ("rank", "step", "index"))
    if rank in range(plan.world_size) and step in trace.steps and isinstance(at, int):
        st.session_state["rank"], st.session_state[AT] = rank, at
        if len(trace.steps) > 1:
            st.session_state["river_step"] = step


def _player_key(page: str, run: Kept | None) -> str:
    return f"{page}.model" if run is None else f"{page}.run_{run.name}"


def where(plan: Plan, trace: Trace) -> tuple[int, int]:
    """Which rank, and which step of a run."""
    places = iter(st.columns(3))
    last = plan.world_size - 1
    rank = 0
    if last:
        rank = next(places).number_input("Rank shown", 0, last, 0, key="rank", bind="query-params")
    step = typical_step(trace)
    if len(trace.steps) > 1:
        with next(places):
            step = st.selectbox(
                "Step shown", trace.steps, index=trace.steps.index(step), key="river_step"
            )
    with next(places):
        st.number_input(
            "Instruction looked at", 0, 100_000, value=None, key=AT, bind="query-params",
            placeholder="the peak",
        )  # fmt: skip
    return int(rank), step


def cursor(found: list[Moment]) -> int | None:
    """The instruction that is looked at; None is the peak."""
    at: int | None = st.session_state.get(AT)
    if at is None or any(moment.at == at for moment in found):
        return at
    st.error(f"Instruction {at} is not in this program; its last is {max(m.at for m in found)}.")
    return None


def rival(plan: Plan, rank: int) -> dict[str, Any]:
    """The total of the pinned plan, as a line."""
    other = shard_bench_pair.pinned()
    if other is None or other == plan:
        return {}
    trace = modelled(other)
    beside = min(rank, other.world_size - 1)
    origin = origin_of(trace, beside)
    line = [(ms(m.time, origin), m.total) for m in moments(other, program(other), trace, beside)]
    return {"rival": line, "rival_name": f"B, {other.layout}, modelled"}


def chart(page: str, figure: go.Figure, alt: str) -> None:
    """The figure; a click on a dot moves the cursor to its instruction."""
    key = f"{page}.river"
    st.plotly_chart(
        figure, theme=None, key=key, alt=alt, on_select=partial(_picked, key),
        selection_mode="points", config={"displaylogo": False},
    )  # fmt: skip


def _picked(key: str) -> None:
    points = st.session_state[key].selection.points
    if points and "customdata" in points[0]:
        data = points[0]["customdata"]
        st.session_state[AT] = int(data[0] if isinstance(data, list) else data)


def agreement(run: Kept | None) -> None:
    """Every reading of the run against the outline of the same run."""
    found = None if run is None else run.done.report.get("outline")
    if not found:
        return
    if found["differences"]:
        st.error(chrome.sentence(f"measured is not what was predicted: {found['differences'][0]}"))
        return
    inside = found["within_a_message"]
    also = f", and {inside:,} within what copies and messages leave open" if inside else ""
    st.markdown(
        f"**{found['equal']:,} readings of {found['what']}, on all ranks and in all steps, are "
        f"equal to the prediction to the byte**{also}."
    )


def player(page: str, plan: Plan, run: Kept | None, trace: Trace, step: int) -> None:
    """All ranks of the same step."""
    if run is None:
        chrome.player(trace, key=_player_key(page, run), title=f"{plan.layout}, modelled")
        return
    view = {"own": run.done.own, "model": run.done.model, "step": step}
    title = f"Run #{run.number}"
    chrome.player(run.done.trace, key=_player_key(page, run), title=title, **view)

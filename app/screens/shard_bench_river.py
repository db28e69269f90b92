"""The gather/free river of one rank, the program beside it, and what exists at one moment."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import streamlit as st

from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.trace import Trace
from parallel_core.views.marks import ms, origin_of, typical_step
from parallel_core.views.palette import TENSORS
from parallel_core.views.river import River, river
from parallel_core.views.river_alive import by_owner, existing
from parallel_core.views.river_moments import Moment, moments, peak
from parallel_core.views.river_words import account
from parallel_core.views.shards_alive import instruction_rows
from screens import chrome, shard_bench_pair
from screens.shard_bench_runs import Kept, modelled, program

PAGE = "shard_bench"
KEY, AT = f"{PAGE}.river", "at"


def show(plan: Plan, run: Kept | None, capacity: float | None) -> None:
    """Bytes alive over one step, measured under their outline, or the outline before a run."""
    st.header("Gather, use, free", anchor=False)
    whole = modelled(plan) if run is None else run.done.trace
    follow_player(_player_key(run), plan, whole)
    rank, step = _where(plan, whole)
    trace = whole.only(step)
    steps = program(plan)
    found = moments(plan, steps, trace, rank)
    shown = River(
        trace=trace,
        rank=rank,
        moments=found,
        measured=run.readings(rank, step) if run is not None else (),
        capacity=capacity,
        **_rival(plan, rank),
    )
    at = _cursor(found)
    words = account(shown)
    left, right = st.columns([3, 2])
    with left:
        _chart(river(shown, at=at, dark=chrome.dark()), f"The gather/free river. {words}")
        st.markdown(
            "Click on a dot, or on an instruction in the player below, or type its number, to see "
            "what exists then."
        )
    with right:
        st.markdown(f"The program of rank {rank}, in the order in which it began:")
        st.dataframe(instruction_rows(plan, steps, trace, rank), height=440, hide_index=True)
    st.markdown(words)
    _agreement(run)
    _exists(plan, trace, rank, next((m for m in found if m.at == at), peak(found)))
    _player(plan, run, whole, step)


def follow_player(key: str, plan: Plan, trace: Trace) -> None:
    """An instruction picked in the player of this key moves rank, step and cursor of the river."""
    held = st.session_state.get(key) or {}
    picked = held.get("picked") or {}
    rank, step, at = (picked.get(name) for name in ("rank", "step", "index"))
    if rank in range(plan.world_size) and step in trace.steps and isinstance(at, int):
        st.session_state["rank"], st.session_state[AT] = rank, at
        if len(trace.steps) > 1:
            st.session_state["river_step"] = step


def _player_key(run: Kept | None) -> str:
    return f"{PAGE}.model" if run is None else f"{PAGE}.run_{run.name}"


def _where(plan: Plan, trace: Trace) -> tuple[int, int]:
    """Which rank, and which step of a run."""
    places = st.columns(3)
    with places[0]:
        last = plan.world_size - 1
        rank = st.number_input("Rank shown", 0, last, 0, key="rank", bind="query-params")
    step = typical_step(trace)
    if len(trace.steps) > 1:
        with places[1]:
            step = st.selectbox(
                "Step shown", trace.steps, index=trace.steps.index(step), key="river_step"
            )
    with places[2]:
        st.number_input(
            "Instruction looked at", 0, 100_000, value=None, key=AT, bind="query-params",
            placeholder="the peak",
        )  # fmt: skip
    return int(rank), step


def _cursor(found: list[Moment]) -> int | None:
    """The instruction that is looked at; None is the peak."""
    at: int | None = st.session_state.get(AT)
    if at is None or any(moment.at == at for moment in found):
        return at
    st.error(f"Instruction {at} is not in this program; its last is {max(m.at for m in found)}.")
    return None


def _rival(plan: Plan, rank: int) -> dict[str, Any]:
    """The total of the pinned plan, as a line."""
    other = shard_bench_pair.pinned()
    if other is None or other == plan:
        return {}
    trace = modelled(other)
    beside = min(rank, other.world_size - 1)
    origin = origin_of(trace, beside)
    line = [(ms(m.time, origin), m.total) for m in moments(other, program(other), trace, beside)]
    return {"rival": line, "rival_name": f"B, {other.layout}, modelled"}


def _chart(figure: go.Figure, alt: str) -> None:
    """The figure; a click on a dot moves the cursor to its instruction."""
    st.plotly_chart(
        figure, theme=None, key=KEY, alt=alt, on_select=_picked, selection_mode="points",
        config={"displaylogo": False},
    )  # fmt: skip


def _picked() -> None:
    points = st.session_state[KEY].selection.points
    if points and "customdata" in points[0]:
        data = points[0]["customdata"]
        st.session_state[AT] = int(data[0] if isinstance(data, list) else data)


def _agreement(run: Kept | None) -> None:
    """Every reading of the run against the outline of the same run."""
    found = None if run is None else run.done.report.get("outline")
    if not found:
        return
    if found["differences"]:
        st.error(chrome.sentence(f"measured is not what was predicted: {found['differences'][0]}"))
        return
    inside = found["within_a_message"]
    also = f", and {inside:,} within what messages under way leave open" if inside else ""
    st.markdown(
        f"**{found['equal']:,} readings of {found['what']}, on all ranks and in all steps, are "
        f"equal to the prediction to the byte**{also}."
    )


def _exists(plan: Plan, trace: Trace, rank: int, moment: Moment) -> None:
    """The tensors behind one moment."""
    alive = by_owner(existing(plan, program(plan), trace, rank=rank, at=moment.at))
    total = sum(part.size for part in alive)
    st.markdown(
        f"**While instruction {moment.at} ({chrome.plain(moment.label)}) runs**, rank {rank} holds "
        f"{bytes_text(total)}:"
    )
    rows = [
        {
            "kind": TENSORS[part.kind].meaning,
            "what": f"{part.unit}: {part.words}" if part.unit else part.words,
            "bytes": f"{part.size:,}",
            "share": f"{part.size / total:.1%}",
        }
        for part in alive
    ]
    chrome.table(rows)


def _player(plan: Plan, run: Kept | None, trace: Trace, step: int) -> None:
    """All ranks of the same step."""
    if run is None:
        chrome.player(trace, key=_player_key(run), title=f"{plan.layout}, modelled")
        return
    view = {"own": run.done.own, "model": run.done.model, "step": step}
    title = f"Run #{run.number}"
    chrome.player(run.done.trace, key=_player_key(run), title=title, **view)

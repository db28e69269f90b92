"""The gather/free river of one rank, the program beside it, and what exists at one moment."""

from __future__ import annotations

import streamlit as st

from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.trace import Trace
from parallel_core.views.palette import TENSORS
from parallel_core.views.river import River, river
from parallel_core.views.river_alive import by_owner, existing
from parallel_core.views.river_moments import Moment, moments, peak
from parallel_core.views.river_words import account
from parallel_core.views.shards_alive import instruction_rows
from screens import chrome, river_panel
from screens.shard_bench_runs import Kept, modelled, program

PAGE = "shard_bench"


def show(plan: Plan, run: Kept | None, capacity: float | None) -> None:
    """Bytes alive over one step, measured under their outline, or the outline before a run."""
    st.header("Gather, use, free", anchor=False)
    whole = modelled(plan) if run is None else run.done.trace
    river_panel.follow_player(PAGE, run, plan, whole)
    rank, step = river_panel.where(plan, whole)
    trace = whole.only(step)
    steps = program(plan)
    found = moments(plan, steps, trace, rank)
    shown = River(
        trace=trace,
        rank=rank,
        moments=found,
        measured=run.readings(rank, step) if run is not None else (),
        capacity=capacity,
        **river_panel.rival(plan, rank),
    )
    at = river_panel.cursor(found)
    words = account(shown)
    left, right = st.columns([3, 2])
    with left:
        river_panel.chart(
            PAGE, river(shown, at=at, dark=chrome.dark()), f"The gather/free river. {words}"
        )
        st.markdown(
            "Click on a dot, or on an instruction in the player below, or type its number, to see "
            "what exists then."
        )
    with right:
        st.markdown(f"The program of rank {rank}, in the order in which it began:")
        st.dataframe(instruction_rows(plan, steps, trace, rank), height=440, hide_index=True)
    st.markdown(words)
    river_panel.agreement(run)
    _exists(plan, trace, rank, next((m for m in found if m.at == at), peak(found)))
    river_panel.player(PAGE, plan, run, whole, step)


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

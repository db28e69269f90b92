"""The memory river of one rank, what exists at one moment of it, and what a layer keeps."""

from __future__ import annotations

import streamlit as st

from parallel_core.activations.classic import differences
from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.trace import Trace
from parallel_core.views import river_blocks
from parallel_core.views.palette import TENSORS
from parallel_core.views.river import River, river
from parallel_core.views.river_alive import HOST, Part, by_owner, existing
from parallel_core.views.river_lanes import recomputed
from parallel_core.views.river_moments import Moment, moments, peak
from parallel_core.views.river_words import account
from screens import chrome, river_panel
from screens.shard_bench_runs import Kept, modelled, program

PAGE = "memory"


def show(plan: Plan, run: Kept | None, capacity: float | None) -> None:
    """Bytes alive over one step, measured under their outline, or the outline before a run."""
    st.header("One step of one rank", anchor=False)
    whole = modelled(plan) if run is None else run.done.trace
    river_panel.follow_player(PAGE, run, plan, whole)
    rank, step = river_panel.where(plan, whole)
    trace = whole.only(step)
    found = moments(plan, program(plan), trace, rank)
    read = run.readings(rank, step) if run is not None else []
    shown = River(
        trace=trace,
        rank=rank,
        moments=found,
        measured=read,
        again=recomputed(plan, program(plan), trace, rank, readings=read),
        capacity=capacity,
        **river_panel.rival(plan, rank),
    )
    at = river_panel.cursor(found)
    words = account(shown)
    river_panel.chart(PAGE, river(shown, at=at, dark=chrome.dark()), f"The memory river. {words}")
    st.markdown(
        "Dotted, R: a forward run once more. Click on a dot, or on an instruction in the player "
        "below, or type its number, to see what exists then."
    )
    st.markdown(words)
    river_panel.agreement(run)
    _exists(plan, trace, rank, next((m for m in found if m.at == at), peak(found)))
    with st.expander("All ranks, instruction by instruction"):
        river_panel.player(PAGE, plan, run, whole, step)


def _exists(plan: Plan, trace: Trace, rank: int, moment: Moment) -> None:
    """What is behind one moment: by owner, then every block."""
    alive = existing(plan, program(plan), trace, rank=rank, at=moment.at)
    total = sum(part.size for part in alive if part.kind != HOST)
    st.markdown(
        f"**While instruction {moment.at} ({chrome.plain(moment.label)}) runs**, rank {rank} holds "
        f"{bytes_text(total)}:"
    )
    chrome.table([_row(part, total) for part in by_owner(alive)], first=10)
    with st.expander("Block by block"):
        chrome.table([_row(part, total) for part in sorted(alive, key=lambda part: -part.size)])


def _row(part: Part, total: int) -> dict[str, str]:
    mb = "" if part.mb is None else f" mb{part.mb}"
    kind = "on the host" if part.kind == HOST else TENSORS[part.kind].meaning
    return {
        "kind": kind,
        "of": f"{part.unit}{mb}" or "all units",
        "what": part.words,
        "bytes": f"{part.size:,}",
        "share": "" if part.kind == HOST else f"{part.size / total:.1%}",
    }


def blocks_of(plan: Plan, run: Kept | None) -> None:
    """The table of one layer: what each block makes, by formula, and whether it is kept."""
    st.header("What a layer keeps", anchor=False)
    measured = None
    if run is not None:
        measured = run.done.report["ledger"]["activations"]["measured"].get("layer0")
    st.markdown(f"{river_blocks.legend(plan)}. {river_blocks.account(plan, measured)}")
    found = river_blocks.blocks(plan)
    whole = sum(block.size for block in found)
    chrome.table(
        [
            {
                "block": block.name,
                "formula": block.formula,
                "bytes": f"{block.size:,}",
                "share": f"{block.size / whole:.1%}",
                "kept": "yes" if block.kept else "computed again",
            }
            for block in found
        ],
        first=20,
    )
    _beside_the_classic(plan)


def _beside_the_classic(plan: Plan) -> None:
    """Row by row, by what this layer differs from the count of the paper."""
    with st.expander("Beside the classic sbh(34 + 5as/h)"):
        found = differences(plan.but(recompute="none", recompute_every=1))
        if not found:
            st.markdown("This layer is the classic one: no row differs.")
            return
        chrome.table(
            [
                {
                    "block": one.row,
                    "classic": f"{one.classic:,}",
                    "here": f"{one.ours:,}",
                    "why": one.why,
                }
                for one in found
            ],
            first=20,
        )
        st.caption("Korthikanti et al. 2022, arXiv:2205.05198, section 4.1.")

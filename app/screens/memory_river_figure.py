"""The memory river of one rank, what exists at one moment of it, and what a layer keeps."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import streamlit as st

from parallel_core.activations.classic import differences
from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.trace import Trace
from parallel_core.views import river_blocks
from parallel_core.views.marks import ms, origin_of, typical_step
from parallel_core.views.palette import TENSORS
from parallel_core.views.river import River, river
from parallel_core.views.river_alive import HOST, Part, by_owner, existing
from parallel_core.views.river_lanes import recomputed
from parallel_core.views.river_moments import Moment, moments, peak
from parallel_core.views.river_words import account
from screens import chrome, shard_bench_pair
from screens.shard_bench_river import follow_player
from screens.shard_bench_runs import Kept, modelled, program

PAGE = "memory"
KEY, AT = f"{PAGE}.river", "at"


def show(plan: Plan, run: Kept | None, capacity: float | None) -> None:
    """Bytes alive over one step, measured under their outline, or the outline before a run."""
    st.header("One step of one rank", anchor=False)
    whole = modelled(plan) if run is None else run.done.trace
    follow_player(_player_key(run), plan, whole)
    rank, step = _where(plan, whole)
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
        **_rival(plan, rank),
    )
    at = _cursor(found)
    words = account(shown)
    _chart(river(shown, at=at, dark=chrome.dark()), f"The memory river. {words}")
    st.markdown(
        "Dotted, R: a forward run once more. Click on a dot, or on an instruction in the player "
        "below, or type its number, to see what exists then."
    )
    st.markdown(words)
    _agreement(run)
    _exists(plan, trace, rank, next((m for m in found if m.at == at), peak(found)))
    with st.expander("All ranks, instruction by instruction"):
        _player(plan, run, whole, step)


def _player_key(run: Kept | None) -> str:
    return f"{PAGE}.model" if run is None else f"{PAGE}.run_{run.name}"


def _where(plan: Plan, trace: Trace) -> tuple[int, int]:
    """Which rank, and which step of a run."""
    places = st.columns(3)
    last = plan.world_size - 1
    rank = 0
    if last:
        rank = places[0].number_input("Rank shown", 0, last, 0, key="rank", bind="query-params")
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
    also = f", and {inside:,} within what copies and messages leave open" if inside else ""
    st.markdown(
        f"**{found['equal']:,} readings of {found['what']}, on all ranks and in all steps, are "
        f"equal to the prediction to the byte**{also}."
    )


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


def _player(plan: Plan, run: Kept | None, trace: Trace, step: int) -> None:
    """All ranks of the same step."""
    if run is None:
        chrome.player(trace, key=_player_key(run), title=f"{plan.layout}, modelled")
        return
    view = {"own": run.done.own, "model": run.done.model, "step": step}
    title = f"Run #{run.number}"
    chrome.player(run.done.trace, key=_player_key(run), title=title, **view)


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

"""The four stages side by side: bytes left on a rank, and elements sent by one."""

from __future__ import annotations

import streamlit as st

from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text
from parallel_core.views.shards import account, stage_bars
from parallel_core.views.shards_traffic import at_stage, coefficient, rows
from screens import chrome
from screens import shard_bench_runs as runs

PAGE = "shard_bench"


def memory(plan: Plan, capacity: float | None) -> None:
    """A bar a rank and stage; and whether the chosen plan fits."""
    st.header("What each stage leaves on a rank", anchor=False)
    plans = [at_stage(plan, zero) for zero in runs.STAGES]
    kept = [runs.latest(each, PAGE) for each in plans]
    stages = [runs.stage(each, run) for each, run in zip(plans, kept, strict=True)]
    badges = ["pale, dashed: predicted from the plan alone"]
    badges += [f"solid: {run.badge}" for run in kept if run is not None][-1:]
    words = account(stages)
    figure = stage_bars(stages, badges=badges, capacity=capacity, dark=chrome.dark())
    chrome.chart(figure, f"Training state by ZeRO stage. {words}", f"{PAGE}.stages")
    st.markdown(
        "Bars are what lies there between steps. Within a step more exists for a while: diamonds "
        "mark the most that the program allows, whichever lane is ahead, and the most that a run "
        "reached, activations among it."
    )
    _fits(plan, capacity)
    with st.expander("The bars in words"):
        st.markdown(words)


def _fits(plan: Plan, capacity: float | None) -> None:
    """The failure a reader can reach: a rank that is too small."""
    if capacity is None:
        return
    peak = max(runs.most(plan)["total"])
    if peak <= capacity:
        st.success(f"It fits: at most {bytes_text(peak)} of {bytes_text(capacity)}.")
        return
    smaller = [z for z in runs.STAGES if max(runs.most(at_stage(plan, z))["total"]) <= capacity]
    way = f"ZeRO-{smaller[0]} would fit." if smaller else "No stage fits; take more ranks to share."
    st.error(
        f"Out of memory: {plan.layout} needs up to {bytes_text(peak)} on a rank that has "
        f"{bytes_text(capacity)}. {way}"
    )


def sent(plan: Plan) -> None:
    """The traffic of each stage: the formula, the program, the count."""
    st.header("What it sends", anchor=False)
    plans = [at_stage(plan, zero) for zero in runs.STAGES]
    found = [runs.traffic(each, runs.latest(each, PAGE)) for each in plans]
    n = plan.mesh.degree(plan.shard_axis) if plan.zero else plan.dp
    st.markdown(
        f"Elements that one rank sends in a step; m = {plan.microbatches} microbatches, "
        f"n = {n} ranks that share"
        + (f", k = {plan.shards} shards a copy" if plan.zero and plan.shards < plan.dp else "")
        + ". Predicted from the program, and counted from the tensors that a run handed over."
    )
    chrome.table(rows(found))
    wrong = [one for one in found if one.equal is False]
    if wrong:
        names = ", ".join(one.plan.layout for one in wrong)
        st.error(f"Counted is not what was predicted: {chrome.plain(names)}.")
    off = [one for one in found if abs(one.in_psi - coefficient(one.plan)) > 1e-9]
    if off:
        st.caption(
            "Where a number is a little above its formula, blocks were padded until they divide, "
            "or a tied embedding is gathered for the head as well."
        )
    st.markdown(
        "An all-reduce *is* a reduce-scatter and an all-gather: stages 1 and 2 put the update "
        "between the two and send the same. Stage 3 gathers once for the forward and once more "
        "for the backward. Accumulating microbatches, stages 2 and 3 pay again for each."
    )

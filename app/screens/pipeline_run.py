"""Running a schedule, the chosen one or the reader's own, on real ranks; the plan over it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from parallel_core.analysis.bubble import bubble
from parallel_core.fields import PlanError
from parallel_core.pipeline.order import Order
from parallel_core.plan import OWN, Plan
from parallel_core.quantities import time_text
from parallel_core.request import Request
from parallel_core.trace import Trace
from parallel_core.views.marks import typical_step
from screens import chrome, live, results
from screens.controls import plan_controls
from screens.pipeline_build import current
from screens.pipeline_controls import MINE, Choice
from screens.pipeline_draft import Draft, text_of
from screens.pipeline_watch import cause_rows

PAGE = "pipeline"
MODEL = ("layers", "hidden", "heads", "seq", "dtype", "steps")
DEFAULTS = {"layers": 8, "hidden": 128, "heads": 4, "seq": 128, "steps": 4}
MILLI = 1e6


def run(choice: Choice) -> None:
    """Choose whose order, run it, and lay what happened under the plan."""
    draft = current(choice)
    request = _request(choice, draft)
    here = live.current(PAGE)
    going = here is not None and here.going
    if request is not None:
        _button(request, going=going)
    if here is None:
        return
    if going:
        live.watch(here, _growing, PAGE)
        return
    done = live.ended(here)
    if done is not None:
        _show(here.asked.request.plan, done)


def _request(choice: Choice, draft: Draft) -> Request | None:
    """The run that is asked for; None after the sentence that says what is missing."""
    whose = st.radio(
        "Whose order", [choice.name, MINE], horizontal=True, key="whose", bind="query-params"
    )
    order = draft.order
    if whose == MINE and order is None:
        placed = sum(map(len, draft.ranks))
        st.info(f"Your schedule has {placed} tasks and is not whole yet: finish it under *Build*.")
        return None
    with st.expander("Model, batch, steps"):
        values = plan_controls(MODEL, defaults=DEFAULTS)
        rows = st.number_input(
            "Sequences a microbatch", 1, 1024, 2, key="rows", bind="query-params",
            help="a step takes so many times the number of microbatches",
        )  # fmt: skip
    values |= {"pp": choice.p, "microbatches": choice.m, "global_batch": choice.m * int(rows)}
    return _checked(values, _schedule(choice, draft, order if whose == MINE else None))


def _schedule(choice: Choice, draft: Draft, own: Order | None) -> dict[str, Any]:
    if own is not None:
        return {"schedule": OWN, "order": text_of(draft.board, draft.ranks)}
    named = {"schedule": choice.name, "cap": choice.cap}
    return {**named, "virtual_stages": choice.v} if choice.v else named


def _checked(values: dict[str, Any], schedule: dict[str, Any]) -> Request | None:
    """The request, if this machine bears it; else None, said with what would do."""
    try:
        return Request.of(**values, **schedule).checked()
    except PlanError as error:
        chrome.complain(error, mend=error.field in (*MODEL, "pp", "microbatches"))
        return None


def _button(request: Request, *, going: bool) -> None:
    plan = request.plan
    count = plan.world_size
    st.markdown(
        f"{count} processes, {plan.pipeline.stages} stages of a transformer with "
        f"{plan.model.layers} layers, {plan.microbatches} microbatches a step, "
        f"{request.steps} steps; then one process trains the same, and the two are compared."
    )
    icon = {"disabled": going, "icon": ":material/play_arrow:"}
    if st.button("Run on real ranks", type="primary", key=f"{PAGE}.run", **icon):
        live.start(request, PAGE)


def _growing(here: live.Follower) -> None:
    live.growing(here, PAGE)


# -- what happened ---------------------------------------------------------------------------------


def _show(plan: Plan, done: live.Finished) -> None:
    """The proof, the timeline under the plan, the causes, the ledgers."""
    st.header(f"What happened: {plan.layout}", anchor=False)
    results.parity(done.report["parity"], plan.dtype)
    if plan.asynchronous:
        st.markdown(
            "Its weights change inside the step: the one process it is compared with takes the "
            "same stale weights at the same moments. Plain training would differ."
        )
    results.clocks(done)
    step = results.step_choice(done.trace, f"{PAGE}.step")
    model = done.model if step is not None else None
    chrome.player(done.trace, key=f"{PAGE}.player", own=done.own, model=model, step=step)
    if model is not None:
        st.markdown(
            "Dashed outlines are the plan, its times fitted to this same run; the player's switch "
            "shows the wall clock, where ranks share cores, or a device for each."
        )
    _causes(plan, done, step)
    results.ledgers(done.report, PAGE)
    if plan.schedule == OWN:
        st.markdown("The same from a terminal, with the order saved as text:")
        st.code("shardlab schedule --file mine.txt --run", language=None)
        st.code(plan.order or "", language=None)
    else:
        results.terminal(plan, done)
    chrome.export(done.trace, f"run_pp{plan.pp}_{plan.schedule}", f"{PAGE}.ran")


def _causes(plan: Plan, done: live.Finished, step: int | None) -> None:
    """Each rank's time by cause on one of the two clocks; what was in flight, planned and run."""
    st.header("Where the time went", anchor=False)
    clock = st.radio(
        "Clock", ["own device", "wall"], horizontal=True, key="clock", bind="query-params"
    )
    whole = done.own if clock == "own device" else done.trace
    trace: Trace = whole if step is None else whole.only(step)
    found = bubble(trace)
    _beside(done, step)
    chrome.badge(trace)
    planned = [count * plan.pipeline.p / plan.pipeline.stages for count in plan.pipeline.in_flight]
    rows = cause_rows(found, MILLI, "ms")
    for row, number in zip(rows, planned, strict=False):
        row["planned"] = f"{number:g}"
    chrome.table(rows)
    st.markdown(
        "In flight: microbatches between their forward and the end of their backward, as it ran "
        "and as the order plans it."
    )


def _beside(done: live.Finished, step: int | None) -> None:
    """The bubble of the plan and of the run, on both clocks; one step, the typical by default."""
    number = typical_step(done.trace) if step is None else step
    cut = {
        "planned, by the model fitted to this run": done.model,
        "ran, a device for each rank": done.own.only(number),
        "ran, wall clock": done.trace.only(number),
    }
    found = {name: bubble(trace) for name, trace in cut.items()}
    chrome.table(
        [
            {
                f"step {number}": name,
                "makespan": time_text(one.makespan),
                "idle / all time": f"{one.bubble_fraction:.1%}",
                "inside the ranks": f"{one.internal_fraction:.1%}",
                "in flight, fullest rank": f"{max(rank.in_flight for rank in one.ranks):g}",
            }
            for name, one in found.items()
        ]
    )

"""A second plan, pinned, beside the one chosen: A against B. The pin stands in the URL."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import streamlit as st

from parallel_core.fields import PlanError
from parallel_core.ledger import peak_state_bytes, predicted_memory
from parallel_core.plan import Plan, flat_fields
from parallel_core.quantities import bytes_text, time_text
from screens import chrome
from screens import shard_bench_runs as runs

PAGE, PIN = "shard_bench", "pin"


def pin_button(plan: Plan) -> None:
    """Pin this plan, or let go of the one that is pinned."""
    st.button(
        "Pin as B", key=f"{PAGE}.pin", icon=":material/push_pin:", on_click=_pin, args=(plan,),
        help="keeps this plan beside whatever you choose next",
    )  # fmt: skip
    if PIN in st.query_params:
        st.button("Unpin", key=f"{PAGE}.unpin", type="tertiary", on_click=_unpin)


def _pin(plan: Plan) -> None:
    flat, usual = plan.flat(), flat_fields()
    st.query_params[PIN] = urlencode({k: x for k, x in flat.items() if x != usual[k].default})


def _unpin() -> None:
    st.query_params.pop(PIN, None)


def pinned() -> Plan | None:
    """The pinned plan; one that the address spells wrong is told and let go."""
    if PIN not in st.query_params:
        return None
    try:
        return Plan.of(**dict(parse_qsl(st.query_params[PIN])))
    except PlanError as error:
        st.error(chrome.plain(f"The pinned plan in the address: {error}. It is let go."))
        _unpin()
        return None


def show(plan: Plan) -> None:
    """Both plans, number by number."""
    other = pinned()
    if other is None or other == plan:
        return
    st.header("A against B", anchor=False)
    columns = {"A, chosen": _figures(plan), "B, pinned": _figures(other)}
    names = list(columns["A, chosen"])
    chrome.table(
        [{"figure": name, **{who: col[name] for who, col in columns.items()}} for name in names]
    )


def _figures(plan: Plan) -> dict[str, str]:
    """What a plan promises, and what its last run measured."""
    run = runs.latest(plan, PAGE)
    found = runs.traffic(plan, run)
    ran = "not run yet"
    measured = None if run is None or run.peak is None else bytes_text(max(run.peak))
    speed = ran if run is None else f"{run.done.trace.metrics[-1]['tokens_per_s']:,.0f}"
    return {
        "plan": plan.layout,
        "microbatches": f"{plan.microbatches}",
        "state between steps, fullest rank": bytes_text(peak_state_bytes(predicted_memory(plan))),
        "most within a step, predicted": bytes_text(max(runs.most(plan)["total"])),
        "most within a step, measured": measured or ran,
        "a rank sends, elements": f"{found.total:,.10g}",
        "a step, modelled": time_text(runs.modelled(plan).makespan),
        "tokens a second, last step": speed,
    }

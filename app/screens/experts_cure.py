"""Other placements of the experts, tried on the loads of the reader's run."""

from __future__ import annotations

import streamlit as st
import theme

from parallel_core.trace import Kind
from parallel_core.views import expert_cure as view
from parallel_core.views.expert_rows import routing_of, tokens
from screens import chrome
from screens.experts_runs import Ran


def placements(here: Ran | None) -> None:
    """Copies of hot experts and experts dealt out anew: loads before and after."""
    if here is None:
        return
    st.header("Another placement", anchor=False)
    plan = here.plan
    most = min(plan.model.experts - plan.experts_here, plan.experts_here)
    spare = st.number_input(
        "Spare slots a rank", 0, most, min(1, most), key="spare", bind="query-params",
        help="room for copies of hot experts; a copy costs its weights and a sum of its gradients",
    )  # fmt: skip
    first, last = int(here.steps[0]["step"]), int(here.steps[-1]["step"])
    layer = int(st.session_state.get("layer") or 0)
    found = tokens(here.record, step=last, layer=layer)
    routing, _ = routing_of(found, plan.model.top_k)
    if plan.model.router == "expert-choice":
        routing = routing[:0]
    then, later = (here.record.loads(step=at, layer=layer) for at in (first, last))
    cures = view.cures(then, later, plan.ep, int(spare), routing)
    theme.badge(Kind.MODELLED, f"modelled: from measured loads; {here.kept.badge}")
    st.markdown(
        f"Chosen from the loads of step {first}, judged by those of step {last}, layer {layer}: a "
        "balancer only ever sees the past. The run itself places experts statically, neighbours "
        "together, and moves none: a placement here is modelled on its measured loads."
    )
    chrome.table(view.table(cures))
    st.markdown(view.in_words(cures))
    with st.expander("Which experts each rank would hold"):
        chrome.table(view.slots_table(cures))
